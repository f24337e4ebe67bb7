//! Coins that the operator gives.

use super::Api;
use crate::{
    http::{
        input::{App, Body, User},
        problem::{Problem, ProblemCode, Result},
    },
    services::ports::money::{Grant, GrantOutcome},
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrantBody {
    user_id: User,
    /// How many.
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    coins: i64,
    /// Your own id of it, of this user, 1 to 64 bytes: for ever, sent again nothing is given again.
    uuid: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GrantsBody {
    #[serde(default)]
    #[schema(default = 10001)]
    app_id: App,
    /// At most 1,000.
    grants: Vec<GrantBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Granted {
    user_id: User,
    /// Coins that the user has.
    coins: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GrantsAnswer {
    /// In the order asked.
    grants: Vec<Granted>,
}

/// Gives coins to users, all or none: for a campaign, or what was bought elsewhere. They come from the recharge source of the ledger.
#[utoipa::path(post, path = "/v1/wallet/grants", tag = "wallet", request_body = GrantsBody, responses((status = 200, body = GrantsAnswer)))]
pub(crate) async fn grant(State(api): State<Api>, Body(body): Body<GrantsBody>) -> Result<Json<GrantsAnswer>> {
    let app = body.app_id.into();
    let grant = |grant: GrantBody| Grant { app, user: grant.user_id.into(), coins: grant.coins, uuid: grant.uuid };
    let grants: Vec<Grant> = body.grants.into_iter().map(grant).collect();
    let outcomes = api.parts.handle.grant(&grants).await?;
    let granted = |(grant, outcome): (&Grant, GrantOutcome)| match outcome {
        GrantOutcome::Given { balance } => Ok(Granted { user_id: grant.user.into(), coins: balance }),
        GrantOutcome::Conflict => {
            let detail = format!("the uuid {:?} of user {} was used for another sum", grant.uuid, grant.user);
            Err(Problem::new(ProblemCode::UuidReused, detail).at("uuid"))
        }
    };
    let grants = grants.iter().zip(outcomes).map(granted).collect::<Result<_>>()?;
    Ok(Json(GrantsAnswer { grants }))
}
