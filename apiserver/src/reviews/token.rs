//! TokenReview: is this bearer token good, whose is it, and for which audiences.

use machinery::status::StatusError;
use serde_json::json;

use super::{Reviews, user_json};
use crate::authn::AUTHENTICATED_GROUP;
use crate::authn::bearer::TokenOutcome;
use crate::contract::{Object, RequestContext};
use crate::kinds::json::{text, texts};

pub async fn review(
    reviews: &Reviews,
    ctx: &RequestContext,
    mut review: Object,
) -> Result<Object, StatusError> {
    if !ctx.info.namespace.is_empty() {
        let text = format!("namespace is not allowed on this type: {}", ctx.info.namespace);
        return Err(StatusError::bad_request(text));
    }
    let token = text(&review, &["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> = texts(&review, &["spec", "audiences"]).map(str::to_owned).collect();
    let asked = if asked.is_empty() { reviews.audiences.clone() } else { asked };
    review["status"] = match reviews.bearer.check(&token, &asked).await {
        TokenOutcome::Found { mut user, audiences } => {
            if !user.groups.iter().any(|group| group == AUTHENTICATED_GROUP) {
                user.groups.push(AUTHENTICATED_GROUP.to_owned());
            }
            json!({ "authenticated": true, "user": user_json(&user), "audiences": audiences })
        }
        TokenOutcome::Refused(why) => {
            json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") })
        }
        TokenOutcome::NotMine => json!({ "user": {}, "error": "invalid bearer token" }),
    };
    Ok(review)
}
