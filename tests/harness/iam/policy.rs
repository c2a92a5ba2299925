//! A role's statements and how they judge a call.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::Call;

/// A role with the statements of its policies.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name in the template.
    pub name: String,
    /// The statements, in the order of the template.
    pub statements: Vec<Statement>,
}

/// A statement of a policy.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its name.
    pub sid: String,
    /// Whether it permits; one that does not forbids.
    pub permits: bool,
    /// Actions, with `*` and `?`.
    pub actions: Vec<String>,
    /// ARNs, with `*` and `?`.
    pub resources: Vec<String>,
    /// What must hold besides.
    pub conditions: Vec<Condition>,
}

/// A condition: `key` compared with `values`.
#[derive(Clone, Debug)]
pub struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

/// How a condition compares. Those that the templates use; another one stops the test that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// The call has the key, and its value matches one of the values.
    StringLike,
    /// Every value that the call has of the key, if any, matches one of the values. Also true of a call that has none.
    EveryStringLike,
}

/// Something that a role may do, as narrow as a policy can say it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// The role.
    pub role: String,
    /// The statement.
    pub sid: String,
    /// An action, a resource or a leading key that the statement names.
    pub of: String,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}: {}", self.role, self.sid, self.of)
    }
}

/// What comes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It may pass; by which permissions.
    Permitted(BTreeSet<Permission>),
    /// No statement permits it, or one forbids it.
    Denied,
}

/// The condition key whose patterns are permissions of their own.
const LEADING_KEYS: &str = "dynamodb:LeadingKeys";

impl Role {
    /// Reads a role's policies, resolved as IAM has them.
    ///
    /// # Panics
    /// On anything that is not understood: what is guessed here would be proved of nothing.
    #[must_use]
    pub fn read(name: &str, policies: &[Value]) -> Self {
        let statements = policies.iter().flat_map(|policy| several(&policy["Statement"]));
        Self { name: name.to_owned(), statements: statements.map(Statement::read).collect() }
    }

    /// Judges a call. A statement that forbids wins; of those that permit, the first is credited, so that one which only
    /// repeats another is never used.
    #[must_use]
    pub fn judge(&self, call: &Call) -> Judgement {
        let mut meant = self.statements.iter().filter_map(|statement| Some((statement, statement.covers(call)?)));
        let mut first = None;
        if meant.any(|(statement, of)| {
            if statement.permits && first.is_none() {
                first = Some((statement, of));
            }
            !statement.permits
        }) {
            return Judgement::Denied;
        }
        first.map_or(Judgement::Denied, |(statement, of)| {
            Judgement::Permitted(of.into_iter().map(|of| self.permission(statement, of)).collect())
        })
    }

    /// Everything the role may do.
    #[must_use]
    pub fn permissions(&self) -> BTreeSet<Permission> {
        let permitting = self.statements.iter().filter(|statement| statement.permits);
        permitting
            .flat_map(|statement| statement.parts().into_iter().map(|of| self.permission(statement, of)))
            .collect()
    }

    /// The role without a permission.
    #[must_use]
    pub fn without(&self, gone: &Permission) -> Self {
        let mut role = self.clone();
        for statement in role.statements.iter_mut().filter(|statement| statement.sid == gone.sid) {
            statement.actions.retain(|action| *action != gone.of);
            statement.resources.retain(|resource| *resource != gone.of);
            for condition in &mut statement.conditions {
                condition.values.retain(|value| *value != gone.of);
            }
        }
        role
    }

    fn permission(&self, statement: &Statement, of: String) -> Permission {
        Permission { role: self.name.clone(), sid: statement.sid.clone(), of }
    }
}

impl Statement {
    fn read(statement: &Value) -> Self {
        let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
        for key in statement.as_object().unwrap().keys() {
            assert!(known.contains(&key.as_str()), "{key} is not understood: {statement}");
        }
        let permits = match statement["Effect"].as_str() {
            Some("Allow") => true,
            Some("Deny") => false,
            other => panic!("{other:?} is no effect"),
        };
        let conditions = statement["Condition"].as_object().into_iter().flatten();
        let conditions = conditions.flat_map(|(operator, keys)| {
            let keys = keys.as_object().unwrap().iter();
            keys.map(|(key, values)| Condition {
                operator: Operator::read(operator),
                key: key.clone(),
                values: texts(values),
            })
        });
        Self {
            sid: statement["Sid"]
                .as_str()
                .unwrap_or_else(|| panic!("a statement without a Sid: {statement}"))
                .to_owned(),
            permits,
            actions: texts(&statement["Action"]),
            resources: texts(&statement["Resource"]),
            conditions: conditions.collect(),
        }
    }

    /// The parts of the statement that a call needs, if the statement speaks of it.
    fn covers(&self, call: &Call) -> Option<Vec<String>> {
        let action = self.actions.iter().find(|pattern| matches(pattern, &call.action))?;
        let resource = self.resources.iter().find(|pattern| matches(pattern, &call.resource))?;
        let mut parts = vec![action.clone()];
        if self.resources.len() > 1 {
            parts.push(resource.clone());
        }
        for condition in &self.conditions {
            let used = condition.holds(&call.context)?;
            if condition.key == LEADING_KEYS {
                parts.extend(used);
            }
        }
        Some(parts)
    }

    fn parts(&self) -> Vec<String> {
        let resources = if self.resources.len() > 1 { self.resources.as_slice() } else { &[] };
        let keys = self.conditions.iter().filter(|condition| condition.key == LEADING_KEYS);
        let keys = keys.flat_map(|condition| &condition.values);
        self.actions.iter().chain(resources).chain(keys).cloned().collect()
    }
}

impl Operator {
    fn read(name: &str) -> Self {
        match name {
            // Patterns without wildcards are compared whole.
            "StringLike" | "StringEquals" | "ArnLike" | "ArnEquals" | "Bool" => Self::StringLike,
            "ForAllValues:StringLike" | "ForAllValues:StringEquals" => Self::EveryStringLike,
            other => panic!("the condition {other} is not understood"),
        }
    }
}

impl Condition {
    /// The values by which it holds, if it does.
    fn holds(&self, context: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
        let found = context.get(&self.key).map_or(&[][..], Vec::as_slice);
        if found.is_empty() && self.operator == Operator::StringLike {
            return None;
        }
        let by = found.iter().map(|value| self.values.iter().find(|pattern| matches(pattern, value)).cloned());
        by.collect()
    }
}

/// Whether `text` matches a pattern, in which `*` stands for any text and `?` for any character.
fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = text;
    let mut pieces = pattern.split('*');
    let Some(head) = pieces.next().and_then(|piece| begins(rest, piece)) else { return false };
    rest = head;
    let pieces: Vec<&str> = pieces.collect();
    let Some((tail, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let places = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        match places.into_iter().find_map(|at| begins(&rest[at..], piece)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    let end = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).rev().nth(tail.chars().count());
    end.is_some_and(|at| begins(&rest[at..], tail).is_some())
}

/// What follows `piece` at the beginning of `text`.
fn begins<'a>(text: &'a str, piece: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    piece
        .chars()
        .all(|wanted| rest.next().is_some_and(|found| wanted == '?' || wanted == found))
        .then_some(rest.as_str())
}

/// One value or several, as a policy lets either stand.
fn several(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |items| items.iter().collect())
}

fn texts(value: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is not resolved")).to_owned();
    several(value).into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role() -> Role {
        let keys = json!({"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["A#*", "B#*"]}});
        let allow = json!({"Sid": "Read", "Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:Query"],
            "Resource": "arn:aws:dynamodb:us-east-1:0:table/t", "Condition": keys});
        let queues = json!({"Sid": "Send", "Effect": "Allow", "Action": "sqs:SendMessage",
            "Resource": "arn:aws:sqs:us-east-1:0:prod-*-p?"});
        let twice = json!({"Sid": "ReadAgain", "Effect": "Allow", "Action": "dynamodb:GetItem",
            "Resource": "arn:aws:dynamodb:us-east-1:0:table/t", "Condition": keys});
        Role::read("Some", &[json!({"Statement": [allow, queues, twice]})])
    }

    fn get(keys: &[&str]) -> Call {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Call {
            action: "dynamodb:GetItem".to_owned(),
            resource: "arn:aws:dynamodb:us-east-1:0:table/t".to_owned(),
            context: BTreeMap::from([("dynamodb:LeadingKeys".to_owned(), keys)]),
        }
    }

    fn send(queue: &str) -> Call {
        let resource = format!("arn:aws:sqs:us-east-1:0:{queue}");
        Call { action: "sqs:SendMessage".to_owned(), resource, context: BTreeMap::new() }
    }

    #[test]
    fn patterns_match_as_iam_says() {
        for (pattern, text) in
            [("a*", "a"), ("*", ""), ("a?c", "abc"), ("a*b*c", "a-b-b-c"), ("x-*-p?", "x-m-p0-p1"), ("a", "a")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a", "ab"), ("a?", "a"), ("x-*-p?", "x-m-p0-dlq"), ("a*b", "ac"), ("ab*b", "ab"), ("?", "")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_call_is_permitted_by_the_first_statement_that_covers_all_of_its_keys() {
        let Judgement::Permitted(by) = role().judge(&get(&["A#1", "A#2"])) else { panic!("denied") };
        let by: Vec<String> = by.iter().map(Permission::to_string).collect();
        assert_eq!(by, ["Some.Read: A#*", "Some.Read: dynamodb:GetItem"]);
        assert_eq!(role().judge(&get(&["A#1", "C#1"])), Judgement::Denied);
        assert_ne!(role().judge(&send("prod-main-p0")), Judgement::Denied);
        assert_eq!(role().judge(&send("prod-main-p0-dlq")), Judgement::Denied);
        assert_eq!(role().judge(&send("dev-main-p0")), Judgement::Denied);
    }

    /// As IAM has it, and why a scan must never be permitted by such a statement.
    #[test]
    fn a_call_without_keys_fulfils_a_condition_on_all_of_them() {
        assert_ne!(role().judge(&get(&[])), Judgement::Denied);
    }

    #[test]
    fn what_is_forbidden_stays_forbidden_whatever_permits_it() {
        let mut role = role();
        let deny = json!({"Sid": "No", "Effect": "Deny", "Action": "dynamodb:*", "Resource": "*"});
        role.statements.push(Statement::read(&deny));
        assert_eq!(role.judge(&get(&["A#1"])), Judgement::Denied);
    }

    #[test]
    fn without_a_permission_what_it_permitted_is_denied() {
        for of in ["dynamodb:GetItem", "A#*"] {
            let mut role = role();
            for sid in ["Read", "ReadAgain"] {
                role = role.without(&Permission { role: "Some".to_owned(), sid: sid.to_owned(), of: of.to_owned() });
            }
            assert_eq!(role.judge(&get(&["A#1"])), Judgement::Denied, "{of}");
        }
    }
}
