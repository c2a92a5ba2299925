//! Which part of a list is asked for: `after`, `limit`, `order`, and whatever else stands in the query.

use std::collections::BTreeMap;

use axum::extract::Query;

use crate::error::ApiError;
use crate::ports::Order;

/// A part of a list.
pub(crate) struct Paging {
    /// It begins after this one.
    pub(crate) after: Option<String>,
    /// It has so many at most.
    pub(crate) limit: usize,
    /// Ids begin with the moment, so the last one by name is the newest.
    pub(crate) order: Order,
    /// The other parameters.
    pub(crate) more: BTreeMap<String, String>,
}

impl Paging {
    /// Reads a query; newest first unless it says otherwise.
    ///
    /// # Errors
    /// 400 naming the parameter at fault.
    pub(crate) fn read(query: &str, usual: usize, most: usize) -> Result<Self, ApiError> {
        let uri = format!("/?{query}").parse().map_err(|_| unreadable())?;
        let Query(mut more) = Query::<BTreeMap<String, String>>::try_from_uri(&uri).map_err(|_| unreadable())?;
        let limit = match more.remove("limit").map(|limit| limit.parse::<usize>()) {
            None => usual,
            Some(Ok(limit)) if (1..=most).contains(&limit) => limit,
            Some(_) => {
                let message = format!("'limit' must be between 1 and {most}");
                return Err(ApiError::invalid("limit", "invalid_value", message));
            }
        };
        let order = match more.remove("order").as_deref() {
            None | Some("desc") => Order::Falling,
            Some("asc") => Order::Rising,
            Some(_) => return Err(ApiError::invalid("order", "invalid_value", "'order' must be asc or desc")),
        };
        Ok(Self { after: more.remove("after"), limit, order, more })
    }
}

fn unreadable() -> ApiError {
    ApiError::invalid("query", "invalid_value", "the part of the URL after '?' cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_newest_few_unless_it_is_told_otherwise() {
        let paging = Paging::read("", 20, 100).unwrap();
        assert_eq!((paging.after, paging.limit, paging.order), (None, 20, Order::Falling));
        let paging = Paging::read("limit=5&order=asc&after=file-1&purpose=fine-tune", 20, 100).unwrap();
        assert_eq!((paging.after.as_deref(), paging.limit, paging.order), (Some("file-1"), 5, Order::Rising));
        assert_eq!(paging.more["purpose"], "fine-tune");
        for bad in ["limit=0", "limit=101", "limit=x", "order=up"] {
            assert!(Paging::read(bad, 20, 100).is_err(), "{bad}");
        }
    }
}
