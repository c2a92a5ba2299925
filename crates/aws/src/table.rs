//! Calls on tables: the one conditional write everything is made of, and plain gets, puts and queries.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use penstock_service::ports::{PortError, PortResult};

use crate::Aws;
use crate::error::{DYNAMODB, classify, corrupt};
use crate::item::Item;

/// The pauses before each try of a transaction.
const TRANSACTION_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(80), Duration::from_millis(300)];

/// Reasons for which DynamoDB cancels a transaction that may succeed at the next try.
const PASSING: [&str; 3] = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];

/// A conditional write on one item, as `SET` and `REMOVE` clauses and conditions that must all hold. In a clause,
/// `#name` is the attribute `name` and `:name` a bound value; attributes are always written with `#`, so that none
/// of them can be one of DynamoDB's 573 reserved words.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    key: Item,
    sets: Vec<String>,
    removes: Vec<String>,
    conditions: Vec<String>,
    values: HashMap<String, AttributeValue>,
}

impl Write {
    pub(crate) fn on(key: Item) -> Self {
        Self { key, sets: Vec::new(), removes: Vec::new(), conditions: Vec::new(), values: HashMap::new() }
    }

    /// Binds `:name`. Names nothing refers to are left out when the write is sent.
    pub(crate) fn bind(&mut self, name: &str, value: AttributeValue) -> &mut Self {
        self.values.insert(format!(":{name}"), value);
        self
    }

    /// Sets attribute `name` to `value`.
    pub(crate) fn set(&mut self, name: &str, value: AttributeValue) -> &mut Self {
        self.sets.push(format!("#{name} = :set_{name}"));
        self.bind(&format!("set_{name}"), value)
    }

    /// Sets attribute `name` to `value` unless the item has it.
    pub(crate) fn set_if_absent(&mut self, name: &str, value: AttributeValue) -> &mut Self {
        self.sets.push(format!("#{name} = if_not_exists(#{name}, :set_{name})"));
        self.bind(&format!("set_{name}"), value)
    }

    /// Adds a `SET` clause.
    pub(crate) fn clause(&mut self, clause: impl Into<String>) -> &mut Self {
        self.sets.push(clause.into());
        self
    }

    /// Removes attribute `name`.
    pub(crate) fn remove(&mut self, name: &str) -> &mut Self {
        self.removes.push(format!("#{name}"));
        self
    }

    /// Adds a condition.
    pub(crate) fn require(&mut self, condition: impl Into<String>) -> &mut Self {
        self.conditions.push(condition.into());
        self
    }

    fn update(&self) -> String {
        let mut text = String::new();
        for (verb, clauses) in [("SET", &self.sets), ("REMOVE", &self.removes)] {
            if !clauses.is_empty() {
                let gap = if text.is_empty() { "" } else { " " };
                text.push_str(&format!("{gap}{verb} {}", clauses.join(", ")));
            }
        }
        text
    }

    fn condition(&self) -> Option<String> {
        match self.conditions.as_slice() {
            [] => None,
            // DynamoDB refuses parentheses it calls redundant.
            [only] => Some(only.clone()),
            several => Some(several.iter().map(|each| format!("({each})")).collect::<Vec<_>>().join(" AND ")),
        }
    }
}

impl Write {
    /// The write as a part of a transaction.
    fn in_transaction(self, table: &str) -> PortResult<TransactWriteItem> {
        let (update, condition) = (self.update(), self.condition());
        let all = format!("{update} {}", condition.as_deref().unwrap_or_default());
        let bound = placeholders(&all, ':');
        let names = placeholders(&all, '#').into_iter().map(|name| (name.clone(), name[1..].to_owned())).collect();
        let values: HashMap<_, _> = self.values.into_iter().filter(|(name, _)| bound.contains(name)).collect();
        let update = Update::builder()
            .table_name(table)
            .set_key(Some(self.key))
            .update_expression(update)
            .set_condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values).filter(|values| !values.is_empty()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|error| corrupt("write", error.to_string()))?;
        Ok(TransactWriteItem::builder().update(update).build())
    }
}

#[cfg(test)]
impl Write {
    /// What DynamoDB would refuse about the write, though an emulator may let it pass.
    pub(crate) fn problems(&self) -> Vec<String> {
        let all = format!("{} {}", self.update(), self.condition().unwrap_or_default());
        let unbound = placeholders(&all, ':').into_iter().filter(|name| !self.values.contains_key(name));
        let mut problems: Vec<String> = unbound.map(|name| format!("{name} is not bound")).collect();
        let targets = self.sets.iter().filter_map(|clause| clause.split_once(" = ").map(|(target, _)| target));
        let mut seen = BTreeSet::new();
        for target in targets.chain(self.removes.iter().map(String::as_str)) {
            if !seen.insert(target) {
                problems.push(format!("{target} is written twice"));
            }
        }
        if all.contains("((") {
            problems.push("redundant parentheses".to_owned());
        }
        if self.key.keys().any(|key| seen.contains(format!("#{key}").as_str())) {
            problems.push("the key is written".to_owned());
        }
        problems
    }
}

/// The words of `text` that begin with `sigil`.
fn placeholders(text: &str, sigil: char) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(sigil)
        .map(|(at, _)| text[at..].chars().take(1).chain(text[at + 1..].chars().take_while(|c| word(*c))).collect())
        .collect()
}

/// How a conditional write went.
#[derive(Debug)]
pub(crate) enum Written {
    /// It was applied; the item is now this.
    Done(Item),
    /// Its condition did not hold; the item is this, empty if there is none.
    Not(Item),
}

/// Who repeats a call whose reply is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// The SDK, a few times.
    BySdk,
    /// Nobody.
    Never,
}

impl Aws {
    /// Makes a conditional write.
    pub(crate) async fn update(&self, table: &str, write: Write, repeats: Repeats) -> PortResult<Written> {
        let (update, condition) = (write.update(), write.condition());
        let all = format!("{update} {}", condition.as_deref().unwrap_or_default());
        let bound = placeholders(&all, ':');
        let names = placeholders(&all, '#').into_iter().map(|name| (name.clone(), name[1..].to_owned())).collect();
        let values: HashMap<_, _> = write.values.into_iter().filter(|(name, _)| bound.contains(name)).collect();
        let mut config = aws_sdk_dynamodb::config::Builder::new();
        if repeats == Repeats::Never {
            config.set_retry_config(Some(RetryConfig::disabled()));
        }
        config.set_timeout_config(Some(self.attempt_timeout(table)));
        let sent = self
            .dynamo
            .update_item()
            .table_name(table)
            .set_key(Some(write.key))
            .update_expression(update)
            .set_condition_expression(condition)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values).filter(|values| !values.is_empty()))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(config)
            .send()
            .await;
        match sent {
            Ok(output) => Ok(Written::Done(output.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Written::Not(failed.item.clone().unwrap_or_default()))
                }
                _ => Err(classify(DYNAMODB, &error)),
            },
        }
    }

    /// Makes two writes or neither. The second has no condition. `Some` is the item that failed the first one's
    /// condition. Others that write the same items at the same moment make a transaction fail; it is tried again.
    pub(crate) async fn transact(&self, first: (&str, Write), second: (&str, Write)) -> PortResult<Option<Item>> {
        let (table, update) = first;
        let items = [update.in_transaction(table)?, second.1.in_transaction(second.0)?];
        let mut cause = String::new();
        for pause in TRANSACTION_PAUSES {
            self.pause(pause).await;
            let sent = self.dynamo.transact_write_items().set_transact_items(Some(items.to_vec())).send().await;
            let Err(error) = sent else { return Ok(None) };
            let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
            else {
                return Err(classify(DYNAMODB, &error));
            };
            let reasons = cancelled.cancellation_reasons();
            let code = |reason: &CancellationReason| reason.code().unwrap_or_default().to_owned();
            if let Some(reason) = reasons.first().filter(|reason| code(reason) == "ConditionalCheckFailed") {
                return Ok(Some(reason.item.clone().unwrap_or_default()));
            }
            cause = reasons.iter().map(code).collect::<Vec<_>>().join(", ");
            if !reasons.iter().map(code).any(|code| PASSING.contains(&code.as_str())) {
                return Err(PortError::Refused { store: DYNAMODB, cause });
            }
        }
        Err(PortError::Throttled { store: DYNAMODB, cause })
    }

    /// Reads an item.
    pub(crate) async fn get(&self, table: &str, key: Item, strongly: bool) -> PortResult<Option<Item>> {
        let config = aws_sdk_dynamodb::config::Builder::new().timeout_config(self.attempt_timeout(table));
        let output = self
            .dynamo
            .get_item()
            .table_name(table)
            .set_key(Some(key))
            .consistent_read(strongly)
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok(output.item)
    }

    /// Writes an item whatever is there.
    pub(crate) async fn put(&self, table: &str, item: Item) -> PortResult<()> {
        let config = aws_sdk_dynamodb::config::Builder::new().timeout_config(self.attempt_timeout(table));
        self.dynamo
            .put_item()
            .table_name(table)
            .set_item(Some(item))
            .customize()
            .config_override(config)
            .send()
            .await
            .map_err(|error| classify(DYNAMODB, &error))?;
        Ok(())
    }

    /// Reads all items of a partition whose sort keys lie in `[from, to]`, page by page, up to `limit` of them.
    pub(crate) async fn query(
        &self,
        table: &str,
        pk: &str,
        range: (&str, &str),
        strongly: bool,
        limit: Option<i32>,
    ) -> PortResult<Vec<Item>> {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            let config = aws_sdk_dynamodb::config::Builder::new().timeout_config(self.attempt_timeout(table));
            let page = self
                .dynamo
                .query()
                .table_name(table)
                .consistent_read(strongly)
                .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
                .expression_attribute_values(":pk", crate::item::s(pk))
                .expression_attribute_values(":from", crate::item::s(range.0))
                .expression_attribute_values(":to", crate::item::s(range.1))
                .set_exclusive_start_key(from)
                .set_limit(limit)
                .customize()
                .config_override(config)
                .send()
                .await
                .map_err(|error| classify(DYNAMODB, &error))?;
            items.extend(page.items.unwrap_or_default());
            from = page.last_evaluated_key.filter(|key| !key.is_empty());
            let enough = limit.is_some_and(|limit| usize::try_from(limit).is_ok_and(|limit| items.len() >= limit));
            if from.is_none() || enough {
                return Ok(items);
            }
        }
    }

    fn attempt_timeout(&self, table: &str) -> TimeoutConfig {
        let attempt = if table == self.names.job_table { self.timeouts.job } else { self.timeouts.point };
        TimeoutConfig::builder()
            .connect_timeout(attempt)
            .operation_attempt_timeout(attempt)
            .operation_timeout(self.timeouts.total)
            .build()
    }
}

/// The `ttl` attribute of a record that may go `after` now: epoch seconds, which is what DynamoDB expects (a value in
/// milliseconds would lie in the far future).
pub(crate) fn ttl(now: penstock_policy::time::Timestamp, after: Duration) -> AttributeValue {
    crate::item::n(now.after(after).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{item, n, s};

    #[test]
    fn a_write_is_spelled_with_placeholders_only() {
        let mut write = Write::on(item([("pk", s("x"))]));
        write.set("st", s("R")).set_if_absent("rel", n(0)).remove("uns").require("#st = :q").require("#lu < :now");
        assert_eq!(write.update(), "SET #st = :set_st, #rel = if_not_exists(#rel, :set_rel) REMOVE #uns");
        assert_eq!(write.condition().as_deref(), Some("(#st = :q) AND (#lu < :now)"));
    }

    #[test]
    fn placeholders_are_found_wherever_they_stand() {
        let found = placeholders("SET #a = if_not_exists(#b, :c_0) + :d", ':');
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [":c_0", ":d"]);
    }
}
