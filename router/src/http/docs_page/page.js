// Draws /openapi.json. Whatever comes from it is set as text.
"use strict";

const METHODS = ["get", "post", "put", "delete"];

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Text in which `this` is code.
function prose(name, text) {
  const made = element(name);
  (text || "").split("`").forEach((piece, index) => {
    if (piece) made.append(index % 2 ? element("code", piece) : document.createTextNode(piece));
  });
  return made;
}

function resolved(schema, api) {
  if (schema && schema.$ref) return api.components.schemas[schema.$ref.split("/").pop()] || {};
  return schema || {};
}

// "null" in a list of types only says that the field may be left out, and the table says that already.
function typeName(schema, api) {
  if (!schema) return "";
  if (schema.$ref) {
    const target = resolved(schema, api);
    return target.properties ? schema.$ref.split("/").pop() : typeName(target, api);
  }
  const options = schema.oneOf || schema.anyOf;
  if (options) return options.filter((option) => option.type !== "null").map((option) => typeName(option, api)).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  const type = Array.isArray(schema.type) ? schema.type.filter((one) => one !== "null").join(" or ") : schema.type;
  if (type === "array") return "list of " + typeName(schema.items, api);
  return type || "anything";
}

function bounds(schema, api) {
  const found = [];
  const options = (schema && (schema.oneOf || schema.anyOf)) || [schema];
  for (const option of options) {
    const one = { ...resolved(option, api), ...option };
    if (one.minimum !== undefined) found.push("from " + one.minimum);
    if (one.maximum !== undefined) found.push("to " + one.maximum);
    if (one.maxLength !== undefined) found.push("at most " + one.maxLength + " characters");
    if (one.maxItems !== undefined) found.push("at most " + one.maxItems);
    if (one.default !== undefined) found.push("default " + JSON.stringify(one.default));
  }
  return found.join(", ");
}

function table(rows) {
  const made = element("table");
  for (const [name, type, text] of rows) {
    const row = element("tr");
    const first = element("td");
    first.append(element("code", name));
    row.append(first, element("td", type), prose("td", text));
    made.append(row);
  }
  return made;
}

// Fields of an object, those of objects inside it with the path in front.
function fieldRows(schema, api, path = "", seen = []) {
  const options = schema && (schema.oneOf || schema.anyOf);
  if (options) return options.flatMap((option) => fieldRows(option, api, path, seen));
  const target = resolved(schema, api);
  if (target.type === "array" && target.items) return fieldRows(target.items, api, path + "[].", seen);
  if (!target.properties || seen.includes(target)) return [];
  return Object.entries(target.properties).flatMap(([name, field]) => {
    const needed = (target.required || []).includes(name) ? "" : " (optional)";
    const inside = (field.oneOf || field.anyOf || []).find((option) => option.description);
    const said = field.description || (inside && inside.description) || resolved(field, api).description;
    const text = [said, bounds(field, api)].filter(Boolean).join(" - ");
    return [[path + name, typeName(field, api) + needed, text], ...fieldRows(field, api, path + name + ".", [...seen, target])];
  });
}

function part(section, title, rows) {
  if (rows.length === 0) return;
  section.append(element("h3", title), table(rows));
}

function drawOperation(path, method, operation, api) {
  const section = element("section");
  section.id = operation.operationId;
  const title = element("h2");
  title.append(element("span", method, "method " + method), element("code", path));
  section.append(title);
  for (const text of [operation.summary, operation.description]) if (text) section.append(prose("p", text));
  section.append(element("p", wanted(operation)));
  part(section, "Parameters", (operation.parameters || []).map((parameter) => [
    parameter.name,
    parameter.in + ", " + typeName(parameter.schema, api) + (parameter.required ? "" : " (optional)"),
    [parameter.description, bounds(parameter.schema, api)].filter(Boolean).join(" - "),
  ]));
  for (const [type, content] of Object.entries((operation.requestBody || {}).content || {})) {
    part(section, "Body (" + type + ")", fieldRows(content.schema, api));
  }
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (!status.startsWith("2")) continue;
    const contents = Object.values(answer.content || {});
    if (contents.length === 0) section.append(element("h3", "Answer " + status + ", empty"));
    for (const content of contents) part(section, "Answer " + status, fieldRows(content.schema, api));
  }
  return section;
}

function draw(api) {
  const about = document.getElementById("about");
  about.replaceWith(...(api.info.description || "").split("\n\n").map((text) => prose("p", text)));
  const routes = document.getElementById("routes");
  const operations = document.getElementById("operations");
  operations.replaceChildren();
  for (const tag of api.tags || []) {
    routes.append(element("h2", tag.description || tag.name));
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of METHODS) {
        const operation = item[method];
        if (!operation || !(operation.tags || []).includes(tag.name)) continue;
        const link = element("a");
        link.href = "#" + operation.operationId;
        link.append(element("span", method, "method " + method), element("span", path));
        routes.append(link);
        operations.append(drawOperation(path, method, operation, api));
      }
    }
  }
  const problems = element("a", "Problems");
  problems.href = "#problems";
  routes.append(problems);
  // The sections were not there when the browser looked for the one in the address.
  const wanted = location.hash && document.getElementById(location.hash.slice(1));
  if (wanted) wanted.scrollIntoView();
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(draw)
  .catch((error) => {
    document.getElementById("operations").replaceChildren(element("p", "openapi.json cannot be read: " + error.message));
  });

// What a call must show.
function wanted(operation) {
  const [scheme] = (operation.security || []).flatMap(Object.keys);
  if (scheme === "apiKey") return "Authorization: Bearer <api key>";
  if (scheme === "session") return "Authorization: Bearer <token of a user's login>";
  return "No API key and no token: calls are limited, or show a stream's key or a signature.";
}
