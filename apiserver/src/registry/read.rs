//! The verbs get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{NO_PAD, URL_SAFE_NO_PAD};
use machinery::json;
use machinery::status::{FieldError, Reason, StatusError};

use super::kind::{Kind, Storage};
use super::options::Query;
use super::update::Target;
use super::{Registry, errors};
use crate::cache::{CacheError, Entry, Filter};
use crate::storage::StoreError;

/// What a list request asks for besides its filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub limit: usize,
    pub continue_token: Option<String>,
    /// As sent: empty, `0`, or a revision.
    pub resource_version: String,
    pub exact: bool,
}

/// A list's content.
#[derive(Debug, Default)]
pub struct Listed {
    pub entries: Vec<Arc<Entry>>,
    pub revision: i64,
    pub continue_token: Option<String>,
    pub remaining: Option<u64>,
}

/// Go passes over bits that no byte needs.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Text of the 410 for a token whose revision is gone.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
/// Keys read from the store at once when a page of history is filtered.
const HISTORY_PAGE_LEN: i64 = 500;

impl ListOptions {
    pub fn from_query(query: &Query) -> Result<Self, StatusError> {
        let limit = query.number("limit")?.unwrap_or(0).max(0);
        if query.has("sendInitialEvents") {
            let why = "sendInitialEvents is forbidden for list";
            let error = FieldError::forbidden(&"sendInitialEvents", why);
            return Err(StatusError::invalid("meta.k8s.io", "ListOptions", "", vec![error]));
        }
        let rv = query.get("resourceVersion").unwrap_or_default().to_owned();
        let matching = query.get("resourceVersionMatch");
        let token = query.get("continue").map(str::to_owned);
        check_match(&rv, matching, token.as_deref())?;
        if !rv.is_empty() && rv.parse::<u64>().is_err() {
            return Err(invalid_revision(&rv));
        }
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: token,
            exact: matching == Some("Exact")
                || (matching.is_none() && limit > 0 && !rv.is_empty() && rv != "0"),
            resource_version: rv,
        })
    }
}

/// The combinations upstream refuses.
fn check_match(rv: &str, matching: Option<&str>, token: Option<&str>) -> Result<(), StatusError> {
    let Some(matching) = matching else {
        if token.is_some() && !rv.is_empty() && rv != "0" {
            return Err(StatusError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        return Ok(());
    };
    let path = "resourceVersionMatch";
    let error = if rv.is_empty() {
        FieldError::forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
    } else if token.is_some() {
        FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided")
    } else if matching != "Exact" && matching != "NotOlderThan" {
        FieldError::not_supported(&path, matching, &["Exact", "NotOlderThan", ""])
    } else if matching == "Exact" && rv == "0" {
        FieldError::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
    } else {
        return Ok(());
    };
    Err(StatusError::invalid("meta.k8s.io", "ListOptions", "", vec![error]))
}

fn invalid_revision(rv: &str) -> StatusError {
    let why = format!("strconv.ParseUint: parsing {rv:?}: invalid syntax");
    let error = FieldError::invalid(&"resourceVersion", rv, why);
    StatusError::bad_request(format!("invalid resource version: {error}"))
}

impl Registry {
    /// Reads one object: consistently, or from what the cache has when `resource_version` allows it.
    pub async fn get(
        &self,
        kind: &Kind,
        target: Target<'_>,
        resource_version: &str,
    ) -> Result<Arc<Entry>, StatusError> {
        let storage = kind.storage()?;
        catch_up(storage, resource_version).await?;
        let key = storage.object_key(target.namespace, target.name);
        let found = storage.cache.get(&key);
        found.ok_or_else(|| StatusError::not_found(&kind.group, &kind.resource, target.name))
    }

    /// Lists objects.
    pub async fn list(
        &self,
        kind: &Kind,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<Listed, StatusError> {
        let storage = kind.storage()?;
        if let Some(text) = &options.continue_token {
            return self.list_continued(storage, filter, options, text).await;
        }
        if options.exact {
            let revision = options.resource_version.parse().unwrap_or(0);
            catch_up(storage, &options.resource_version).await?;
            return self.list_at(storage, filter, None, revision, options.limit).await;
        }
        catch_up(storage, &options.resource_version).await?;
        let (page, revision) = storage.cache.list(filter, None, options.limit);
        Ok(listed(page.entries, revision, page.more, page.remaining))
    }

    async fn list_continued(
        &self,
        storage: &Storage,
        filter: &Filter,
        options: &ListOptions,
        text: &str,
    ) -> Result<Listed, StatusError> {
        let token = Token::decode(text)?;
        storage.cache.ready().await.map_err(|e| errors::from_cache(&e))?;
        if token.revision < 0 {
            // An inconsistent continuation reads what there is now.
            storage.cache.wait_current().await.map_err(|e| errors::from_cache(&e))?;
            let (page, revision) = storage.cache.list(filter, Some(&token.after), options.limit);
            return Ok(listed(page.entries, revision, page.more, page.remaining));
        }
        let result = self.list_at(storage, filter, Some(&token.after), token.revision, options.limit).await;
        result.map_err(|error| if error.is(Reason::Expired) { token.expired() } else { error })
    }

    /// A page as it was at a revision: from the cache when nothing has changed since, else from the store.
    async fn list_at(
        &self,
        storage: &Storage,
        filter: &Filter,
        after: Option<&str>,
        revision: i64,
        limit: usize,
    ) -> Result<Listed, StatusError> {
        let cache = &storage.cache;
        cache.wait_for(revision).await.map_err(|e| errors::from_cache(&e))?;
        let (page, _) = cache.list(filter, after, limit);
        if cache.last_change() <= revision {
            return Ok(listed(page.entries, revision, page.more, page.remaining));
        }
        let scope = filter.namespace.as_ref().map_or(String::new(), |n| format!("{n}/"));
        let mut start = after.map_or_else(|| scope.clone(), |a| format!("{a}\0"));
        let mut found = Vec::new();
        loop {
            let read = storage.place.hub.range_at(cache, &start, &scope, revision, HISTORY_PAGE_LEN).await;
            let (entries, more, _) = read.map_err(|e| history_error(&e))?;
            let last = entries.last().map(|e| format!("{}\0", e.key));
            for entry in entries.into_iter().filter(|e| filter.matches(e)) {
                if limit > 0 && found.len() == limit {
                    return Ok(listed(found, revision, true, None));
                }
                found.push(Arc::new(entry));
            }
            match last {
                Some(last) if more => start = last,
                _ => return Ok(listed(found, revision, false, None)),
            }
        }
    }
}

fn history_error(error: &CacheError) -> StatusError {
    match error {
        CacheError::Store(StoreError::Compacted(_)) => {
            errors::expired("The resourceVersion for the provided list is too old.")
        }
        other => errors::from_cache(other),
    }
}

/// Waits until the cache is as new as the request demands.
pub async fn catch_up(storage: &Storage, resource_version: &str) -> Result<(), StatusError> {
    let waited = match resource_version {
        "" => storage.cache.wait_current().await,
        "0" => storage.cache.ready().await,
        text => {
            let revision: u64 = text.parse().map_err(|_| invalid_revision(text))?;
            storage.cache.wait_for(i64::try_from(revision).unwrap_or(i64::MAX)).await
        }
    };
    waited.map_err(|e| errors::from_cache(&e))
}

fn listed(entries: Vec<Arc<Entry>>, revision: i64, more: bool, remaining: Option<u64>) -> Listed {
    let token =
        entries.last().filter(|_| more).map(|last| Token { revision, after: last.key.to_string() }.encode());
    Listed { entries, revision, continue_token: token, remaining: remaining.filter(|_| more) }
}

/// Where a list goes on, and at which revision (negative: at whatever is newest then).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    revision: i64,
    after: String,
}

impl Token {
    /// The same shape as upstream's: version, revision and the key to start from.
    fn encode(&self) -> String {
        let json = serde_json::json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    /// # Errors
    /// 400 in upstream's words; a token is made by this server, and only looks like a secret.
    pub fn decode(text: &str) -> Result<Self, StatusError> {
        let bad = |why: &str| {
            StatusError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = LENIENT.decode(text).map_err(|e| bad(&e.to_string()))?;
        let value = json::parse(&bytes).map_err(|e| bad(&e))?.value;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {}", value["v"])));
        }
        let revision = value["rv"].as_i64().filter(|r| *r != 0);
        let revision = revision
            .ok_or_else(|| bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))?;
        let start = value["start"].as_str().and_then(|s| s.strip_suffix('\0')).unwrap_or_default();
        if start.is_empty() || start.split('/').any(|part| part == "..") {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        Ok(Self { revision, after: start.to_owned() })
    }

    /// The 410 that offers a way to go on without consistency.
    fn expired(&self) -> StatusError {
        let next = Self { revision: -1, after: self.after.clone() };
        let error = StatusError::new(410, Reason::Expired, CONTINUE_EXPIRED, None);
        error.with_continue(next.encode())
    }
}

/// Where the 410's continue token travels: `metadata.continue` of the Status.
pub trait WithContinue {
    /// Adds the token.
    fn with_continue(self, token: String) -> Self;
}

impl WithContinue for StatusError {
    fn with_continue(self, token: String) -> Self {
        self.with_cause(machinery::status::Cause {
            reason: CONTINUE_CAUSE.to_owned(),
            message: token,
            field: String::new(),
        })
    }
}

/// Marks the cause that carries a token; the answer's encoder moves it into the Status' metadata.
pub const CONTINUE_CAUSE: &str = "continue-token";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_bad_ones_are_refused() {
        let token = Token { revision: 7, after: "ns/a".into() };
        assert_eq!(Token::decode(&token.encode()).ok(), Some(token));
        for bad in ["", "!!", "e30"] {
            assert_eq!(Token::decode(bad).map_err(|e| e.code()), Err(400), "{bad}");
        }
    }

    #[test]
    fn match_rules() {
        for (query, ok) in [
            ("resourceVersionMatch=Exact", false),
            ("resourceVersionMatch=Exact&resourceVersion=0", false),
            ("resourceVersionMatch=Nope&resourceVersion=5", false),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=0", true),
            ("resourceVersion=abc", false),
            ("limit=5", true),
        ] {
            assert_eq!(ListOptions::from_query(&Query::parse(query)).is_ok(), ok, "{query}");
        }
    }
}
