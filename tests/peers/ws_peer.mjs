// A foreign peer: npm's `ws` against a running gateway. usage: node ws_peer.mjs URL ROOM USER TOKEN [CERTIFICATE]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, room, user, token, certificate] = process.argv.slice(2);
// Where the test has installed it.
const WebSocket = createRequire(process.env.PEERS_NODE + "/")("ws");
const JSON_MAGIC = 18673;

const envelope = (code, body) => {
  const text = JSON.stringify(body);
  return JSON.stringify({ magic: JSON_MAGIC, code, len: Buffer.byteLength(text), body: text });
};

const options = certificate ? { ca: readFileSync(certificate) } : {};
const peer = new WebSocket(url + "/ws", options);
const timer = setTimeout(() => fail("nothing heard for 20 s"), 20_000);
let step = 0;

function fail(why) {
  console.error(`step ${step}: ${why}`);
  process.exit(1);
}

const steps = [
  [1001, () => peer.send(envelope(1007, { roomId: Number(room) }))],
  [1007, () => peer.ping("hello")],
  ["pong", () => peer.send(envelope(1004, {}))],
  // Closed by us: the library says what came back.
  [1004, () => peer.close(4123, "bye")],
  ["close 4123", () => { clearTimeout(timer); console.log("OK"); process.exit(0); }],
];

function heard(what) {
  // Pushes come at any time.
  if (what === 1003) return;
  const [expected, then] = steps[step];
  if (what !== expected) fail(`${what} instead of ${expected}`);
  step += 1;
  then();
}

peer.on("open", () => peer.send(envelope(1001, { appId: 10001, userId: Number(user), token })));
peer.on("message", (data, isBinary) => {
  if (isBinary) fail("a text session stays text");
  heard(JSON.parse(data.toString()).code);
});
peer.on("pong", (data) => heard(data.toString() === "hello" ? "pong" : "another pong"));
peer.on("close", (code) => heard(`close ${code}`));
peer.on("error", (error) => fail(error.message));
