//! What all lists share: how a page is asked for, and how it ends.

use serde::Deserialize;

use super::problem::{Problem, ProblemDocument};
use super::view::Page;
use crate::task::AgentName;

/// Items of a page where the client names no limit.
const ITEMS_DEFAULT: u32 = 50;
/// Most items of a page: some 5 MB of reasons in the worst case.
const ITEMS_MAX: u32 = 1_000;

/// Query of a list that may be of one agent.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Only of this agent.
    agent: Option<String>,
    /// Items of a page: 1 to 1000, 50 by default.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What a well-formed one asks for.
pub(crate) struct Wanted<C> {
    pub(crate) agent: Option<AgentName>,
    pub(crate) limit: u32,
    pub(crate) after: Option<C>,
}

/// An agent's name in a query. A malformed one is an unknown one: `404`.
pub(crate) fn named(agent: &str) -> Result<AgentName, Problem> {
    AgentName::parse(agent).map_err(|_| Problem::unknown_agent(agent))
}

impl PageQuery {
    pub(crate) fn new(agent: Option<String>, limit: Option<u32>, cursor: Option<String>) -> Self {
        Self { agent, limit, cursor }
    }

    /// Reads it; `cursor` reads the place that the page before ended at.
    pub(crate) fn read<C>(&self, cursor: impl FnOnce(&str) -> Option<C>) -> Result<Wanted<C>, Problem> {
        let limit = self.limit.unwrap_or(ITEMS_DEFAULT);
        if !(1..=ITEMS_MAX).contains(&limit) {
            return Err(Problem::bad_request(format!("limit={limit}: expected 1 to {ITEMS_MAX}")));
        }
        let malformed = || Problem::bad_request("cursor: expected the `next` of the page before, as it was");
        Ok(Wanted {
            agent: self.agent.as_deref().map(named).transpose()?,
            limit,
            after: self.cursor.as_deref().map(|text| cursor(text).ok_or_else(malformed)).transpose()?,
        })
    }
}

impl<C> Wanted<C> {
    /// How many items to look for: one more than is shown tells whether there is a next page.
    pub(crate) fn looked_for(&self) -> u32 {
        self.limit + 1
    }

    /// The page of what was found; `next` writes the place after an item.
    pub(crate) fn page<T, V: From<T>>(&self, mut found: Vec<T>, next: impl FnOnce(&T) -> String) -> Page<V> {
        let shown = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_last = found.len() <= shown;
        found.truncate(shown);
        let next = if is_last { None } else { found.last().map(next) };
        Page { items: found.into_iter().map(V::from).collect(), next }
    }
}

/// Why a list may be refused. For the description alone: what is sent is a [`Problem`].
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
pub(crate) enum ListRefused {
    /// Malformed
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemDocument),
    /// No good token
    #[response(status = 401, content_type = "application/problem+json")]
    NoGoodToken(ProblemDocument),
    /// Not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    NotAllowed(ProblemDocument),
    /// A malformed agent name
    #[response(status = 404, content_type = "application/problem+json")]
    MalformedName(ProblemDocument),
    /// The database is away
    #[response(status = 503, content_type = "application/problem+json")]
    Away(ProblemDocument),
}
