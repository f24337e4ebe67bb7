//! The list of routes, and the OpenAPI document made from it: what is routed is documented, and the other way round.

use super::{
    api::{Api, gifts, grants, im, login, moderation, rooms, streams, users, wallet, webhooks},
    problem::ProblemDocument,
};
use axum::Router;
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        Components, Content, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder, Type,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Schema},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Name of the API key in the document.
const API_KEY: &str = "apiKey";
/// Name of a user's token.
const SESSION: &str = "session";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Billfish",
        description = "Live-room messaging for a business backend: login tokens, pushes, rooms, moderation, profiles, logins by phone, wallets.\n\n\
            Business routes want `Authorization: Bearer <api key>`, routes of a user the token of his login in its place. Errors are problem documents (RFC 9457) with a stable `code`. Ids are whole numbers \
            up to 2^53 - 1; what could be larger travels as text. A repeated POST with the same `uuid` or `Idempotency-Key` gets the first answer. \
            Unknown fields are refused.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "im", description = "Tokens, online, push, kick"),
        (name = "rooms", description = "Live rooms"),
        (name = "moderation", description = "Mutes, bans, slow mode, block-lists"),
        (name = "login", description = "Logins by phone"),
        (name = "users", description = "How users are shown, what they may do"),
        (name = "gifts", description = "Gifts, and the bar of a PK"),
        (name = "wallet", description = "What users have, and how it comes there"),
        (name = "streams", description = "Hooks of the media server"),
        (name = "webhooks", description = "Who is told of what happens here")
    )
)]
struct Document;

/// The routes by what they want, and their document.
pub(super) struct Routes {
    /// The API key.
    pub(super) business: Router,
    /// A user's session.
    pub(super) users: Router,
    /// The API key or a user's session.
    pub(super) both: Router,
    /// Neither: they are limited, or signed.
    pub(super) open: Router,
    pub(super) document: OpenApi,
}

pub(super) fn routes(api: Api) -> Routes {
    let (business, business_document) = business().with_state(api.clone()).split_for_parts();
    let (users, users_document) = of_users().with_state(api.clone()).split_for_parts();
    let (both, both_document) = of_both().with_state(api.clone()).split_for_parts();
    let (open, open_document) = open().with_state(api).split_for_parts();
    Routes { business, users, both, open, document: document(business_document, users_document, both_document, open_document) }
}

fn business() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(im::issue_token))
        .routes(routes!(im::online))
        .routes(routes!(im::push))
        .routes(routes!(im::kick))
        .routes(routes!(rooms::open_room, rooms::list_rooms))
        .routes(routes!(rooms::room))
        .routes(routes!(rooms::close_room))
        .routes(routes!(rooms::members))
        .routes(routes!(moderation::mute, moderation::unmute))
        .routes(routes!(moderation::ban, moderation::unban))
        .routes(routes!(moderation::slow_mode))
        .routes(routes!(moderation::room_block_words))
        .routes(routes!(moderation::block_words, moderation::put_block_words, moderation::delete_block_words))
        .routes(routes!(users::put_user))
        .routes(routes!(users::users))
        .routes(routes!(gifts::put_gift, gifts::remove_gift))
        .routes(routes!(grants::grant))
        .routes(routes!(users::put_tags))
        .routes(routes!(users::end_sessions))
        .routes(routes!(wallet::products))
        .routes(routes!(webhooks::add_webhook, webhooks::webhooks))
        .routes(routes!(webhooks::webhook, webhooks::remove_webhook))
        .routes(routes!(webhooks::given_up))
}

/// A backend calls them for its users, and so do the users themselves.
fn of_both() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(gifts::gifts))
        .routes(routes!(gifts::send_gift))
        .routes(routes!(gifts::pk_online))
        .routes(routes!(gifts::pk_offline))
        .routes(routes!(gifts::pk))
        .routes(routes!(wallet::wallet))
}

fn of_users() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(im::config)).routes(routes!(login::logout)).routes(routes!(wallet::order))
}

fn open() -> OpenApiRouter<Api> {
    OpenApiRouter::default()
        .routes(routes!(streams::on_publish, streams::on_publish_get))
        .routes(routes!(streams::on_publish_done, streams::on_publish_done_get))
        .routes(routes!(login::send_code))
        .routes(routes!(login::login))
        .routes(routes!(wallet::callback))
}

/// What every operation shares is written once, here.
fn document(mut business: OpenApi, mut users: OpenApi, mut both: OpenApi, mut open: OpenApi) -> OpenApi {
    let no_token = "No token, or one that is unknown or has expired";
    for (routes, schemes, refused) in [
        (&mut business, &[API_KEY][..], "No API key, or a wrong one"),
        (&mut users, &[SESSION], no_token),
        (&mut both, &[API_KEY, SESSION], no_token),
    ] {
        for item in routes.paths.paths.values_mut() {
            for (method, operation) in operations(item) {
                let wants = schemes.iter().map(|scheme| SecurityRequirement::new(*scheme, Vec::<String>::new()));
                operation.security = Some(wants.collect());
                operation.responses.responses.insert("default".to_owned(), problem("Any error"));
                operation.responses.responses.insert("401".to_owned(), problem(refused));
                if method == "post" {
                    operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
                }
            }
        }
    }
    for (path, item) in &mut open.paths.paths {
        for (_, operation) in operations(item) {
            operation.security = Some(Vec::new());
            operation.responses.responses.insert("default".to_owned(), problem("Any error"));
            operation.responses.responses.insert("403".to_owned(), problem(refusal_of(path)));
        }
    }
    for routes in [&mut business, &mut users, &mut both, &mut open] {
        for item in routes.paths.paths.values_mut() {
            for (_, operation) in operations(item) {
                describe_success(operation);
            }
        }
    }
    let mut document = Document::openapi();
    document.info.version = "1".to_owned();
    document.merge(business);
    document.merge(users);
    document.merge(both);
    document.merge(open);
    let components = document.components.get_or_insert_default();
    add_schema::<ProblemDocument<'_>>(components);
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The API key")).build();
    components.add_security_scheme(API_KEY, SecurityScheme::Http(key));
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The token of a user's login by phone")).build();
    components.add_security_scheme(SESSION, SecurityScheme::Http(token));
    document
}

/// Why a route that wants neither key nor session refuses a caller.
fn refusal_of(path: &str) -> &'static str {
    if path.starts_with("/v1/login") {
        "Wrong or expired code"
    } else if path.starts_with("/v1/recharge") {
        "Not signed"
    } else {
        "Unknown stream or wrong key"
    }
}

/// A response without a description is no OpenAPI. What a success means stands in the operation's own sentence.
fn describe_success(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = if response.content.is_empty() { "Done" } else { "The answer" }.to_owned();
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [("get", &mut item.get), ("put", &mut item.put), ("post", &mut item.post), ("delete", &mut item.delete)]
        .into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn add_schema<T: ToSchema>(components: &mut Components) {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    components.schemas.extend(schemas);
}

fn problem(description: &str) -> RefOr<Response> {
    let content = Content::builder().schema(Some(Ref::from_schema_name(ProblemDocument::name()))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build().into()
}

fn idempotency_key() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(64)).build();
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some("Makes the call safe to repeat for a day: the same key gets the first answer. The same as `uuid` in the body."))
        .schema(Some(Schema::Object(text)))
        .build()
}
