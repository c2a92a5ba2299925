//! What a request to AWS asks leave for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// An action on a resource, with the condition keys that a policy may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Such as `dynamodb:GetItem`.
    pub action: String,
    /// Its ARN; `*` for an action that has none.
    pub resource: String,
    /// The condition keys of the request with their values.
    pub context: BTreeMap<String, Vec<String>>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, self.resource)?;
        self.context.iter().try_for_each(|(key, values)| write!(f, ", {key} {values:?}"))
    }
}

/// A request as it is on the wire.
#[derive(Clone, Debug)]
pub struct Wire<'a> {
    /// The service that the request was signed for, such as `dynamodb`.
    pub service: &'a str,
    /// The region that it was signed for.
    pub region: &'a str,
    /// The operation's name, where a header says it.
    pub target: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The path, percent-decoded.
    pub path: &'a str,
    /// The query, undecoded.
    pub query: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// The account of the emulator.
const ACCOUNT: &str = "000000000000";

/// What a request asks leave for: one call, or several that must all be permitted.
///
/// # Errors
/// What is not understood about it.
pub fn calls(wire: &Wire<'_>) -> Result<Vec<Call>, String> {
    match wire.service {
        "dynamodb" => dynamodb(wire),
        "sqs" => sqs(wire),
        "s3" => s3(wire),
        other => Err(format!("how {other} authorises is not known here")),
    }
}

fn operation<'a>(wire: &Wire<'a>) -> Result<&'a str, String> {
    let target = wire.target.ok_or("no x-amz-target")?;
    target.rsplit_once('.').map(|(_, name)| name).ok_or_else(|| format!("{target} names no operation"))
}

fn body(wire: &Wire<'_>) -> Result<Value, String> {
    serde_json::from_slice(wire.body).map_err(|error| error.to_string())
}

fn dynamodb(wire: &Wire<'_>) -> Result<Vec<Call>, String> {
    let body = body(wire)?;
    match operation(wire)? {
        name @ ("GetItem" | "DeleteItem" | "UpdateItem") => Ok(vec![item(wire, name, &body, &body["Key"])]),
        "PutItem" => Ok(vec![item(wire, "PutItem", &body, &body["Item"])]),
        "Query" => Ok(vec![Call {
            context: keys([queried(&body)?]),
            ..on_table(wire, "Query", &body["TableName"], &body["IndexName"])
        }]),
        "Scan" => Ok(vec![on_table(wire, "Scan", &body["TableName"], &body["IndexName"])]),
        "BatchGetItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flatten();
            let call = |(table, asked): (&String, &Value)| {
                let asked = asked["Keys"].as_array().into_iter().flatten().map(partition);
                let context = keys(asked);
                Call { context, ..on_table(wire, "BatchGetItem", &Value::from(table.as_str()), &Value::Null) }
            };
            Ok(tables.map(call).collect())
        }
        // A transaction needs leave for each of its parts.
        "TransactWriteItems" => {
            let mut calls = Vec::new();
            for part in body["TransactItems"].as_array().into_iter().flatten() {
                for (kind, of) in part.as_object().into_iter().flatten() {
                    calls.push(match kind.as_str() {
                        "Update" | "Delete" => item(wire, &format!("{kind}Item"), of, &of["Key"]),
                        "ConditionCheck" => item(wire, "ConditionCheckItem", of, &of["Key"]),
                        "Put" => item(wire, "PutItem", of, &of["Item"]),
                        other => return Err(format!("{other} in a transaction")),
                    });
                }
            }
            Ok(calls)
        }
        other => Err(format!("dynamodb:{other} is not known here")),
    }
}

/// A call on one item, whose key is in `at`.
fn item(wire: &Wire<'_>, name: &str, request: &Value, at: &Value) -> Call {
    let mut context = keys([partition(at)]);
    context.insert("dynamodb:Attributes".to_owned(), attributes(request));
    Call { context, ..on_table(wire, name, &request["TableName"], &Value::Null) }
}

fn on_table(wire: &Wire<'_>, name: &str, table: &Value, index: &Value) -> Call {
    let mut resource =
        format!("arn:aws:dynamodb:{}:{ACCOUNT}:table/{}", wire.region, table.as_str().unwrap_or_default());
    if let Some(index) = index.as_str() {
        resource = format!("{resource}/index/{index}");
    }
    Call { action: format!("dynamodb:{name}"), resource, context: BTreeMap::new() }
}

/// The partition key of an item or a key. Every table calls it `pk`.
fn partition(item: &Value) -> String {
    item["pk"]["S"].as_str().unwrap_or_default().to_owned()
}

fn keys(found: impl IntoIterator<Item = String>) -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([("dynamodb:LeadingKeys".to_owned(), found.into_iter().collect())])
}

/// The partition that a query reads: the value of the first comparison with `=`, which is always on the hash key.
fn queried(body: &Value) -> Result<String, String> {
    let expression = body["KeyConditionExpression"].as_str().unwrap_or_default();
    let place = expression.split_once('=').map(|(_, rest)| rest.trim().split([' ', ')']).next().unwrap_or_default());
    let value = place.and_then(|place| body["ExpressionAttributeValues"][place]["S"].as_str());
    value.map(str::to_owned).ok_or_else(|| format!("no partition in {expression}"))
}

/// The attributes that a request names: of its item or key, and in its expressions.
fn attributes(request: &Value) -> Vec<String> {
    let whole =
        ["Key", "Item"].into_iter().filter_map(|part| request[part].as_object()).flatten().map(|(name, _)| name);
    let named = request["ExpressionAttributeNames"].as_object().into_iter().flatten();
    let mut found: BTreeSet<String> = whole.cloned().collect();
    found.extend(named.filter_map(|(_, name)| name.as_str()).map(str::to_owned));
    // Names that stand in an expression as they are.
    for expression in ["UpdateExpression", "ConditionExpression", "ProjectionExpression"] {
        let text = request[expression].as_str().unwrap_or_default();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_#:".contains(c)));
        let plain = words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        let functions = [
            "attribute_exists",
            "attribute_not_exists",
            "attribute_type",
            "begins_with",
            "contains",
            "size",
            "if_not_exists",
            "list_append",
        ];
        found.extend(plain.filter(|word| !functions.contains(word)).map(str::to_owned));
    }
    found.into_iter().collect()
}

fn sqs(wire: &Wire<'_>) -> Result<Vec<Call>, String> {
    let (body, name) = (body(wire)?, operation(wire)?);
    let queue = body["QueueName"].as_str().or_else(|| body["QueueUrl"].as_str()?.rsplit('/').next());
    let queue = queue.ok_or_else(|| format!("sqs:{name} without a queue"))?;
    // Whether one message or ten is asked for makes no difference.
    let action = format!("sqs:{}", name.strip_suffix("Batch").unwrap_or(name));
    Ok(vec![Call {
        action,
        resource: format!("arn:aws:sqs:{}:{ACCOUNT}:{queue}", wire.region),
        context: BTreeMap::new(),
    }])
}

fn s3(wire: &Wire<'_>) -> Result<Vec<Call>, String> {
    let path = wire.path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let parameters: BTreeMap<&str, &str> = wire
        .query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .collect();
    // What is no subresource: the SDK's own name of the operation, and what a list is asked with.
    let plain =
        ["x-id", "list-type", "prefix", "continuation-token", "max-keys", "delimiter", "start-after", "encoding-type"];
    let multipart = ["uploads", "uploadId", "partNumber"];
    if let Some(other) = parameters.keys().find(|name| !plain.contains(name) && !multipart.contains(name)) {
        return Err(format!("s3 {} ?{other} is not known here", wire.method));
    }
    let parts = parameters.keys().any(|name| multipart.contains(name));
    let name = match (wire.method, key.is_empty(), parts) {
        ("GET", true, false) => {
            let prefix = parameters.get("prefix").map(|prefix| prefix.replace("%2F", "/")).into_iter().collect();
            return Ok(vec![lists(bucket, BTreeMap::from([("s3:prefix".to_owned(), prefix)]))]);
        }
        ("GET" | "HEAD", false, false) => "GetObject",
        ("PUT", false, _) | ("POST", false, true) => "PutObject",
        ("DELETE", false, false) => "DeleteObject",
        ("DELETE", false, true) => "AbortMultipartUpload",
        (method, ..) => return Err(format!("s3 {method} /{path} is not known here")),
    };
    let resource = format!("arn:aws:s3:::{bucket}/{key}");
    Ok(vec![Call { action: format!("s3:{name}"), resource, context: BTreeMap::new() }])
}

/// Without leave for this S3 says of an object that is not there that it is forbidden.
#[must_use]
pub(super) fn lists(bucket: &str, context: BTreeMap<String, Vec<String>>) -> Call {
    Call { action: "s3:ListBucket".to_owned(), resource: format!("arn:aws:s3:::{bucket}"), context }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(service: &str, target: Option<&str>, request: (&str, &str, &str), body: &Value) -> Vec<Call> {
        let (method, path, query) = request;
        let body = body.to_string();
        let wire = Wire { service, region: "us-east-1", target, method, path, query, body: body.as_bytes() };
        calls(&wire).unwrap()
    }

    fn posted(service: &str, target: &str, body: &Value) -> Vec<String> {
        asked(service, Some(target), ("POST", "/", ""), body).iter().map(Call::to_string).collect()
    }

    #[test]
    fn an_update_names_its_table_its_partition_and_its_attributes() {
        let update = json!({"TableName": "ctl", "Key": {"pk": {"S": "KEY#1"}, "sk": {"S": "M"}},
            "UpdateExpression": "SET #us = :now", "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeNames": {"#us": "us"}});
        assert_eq!(
            posted("dynamodb", "DynamoDB_20120810.UpdateItem", &update),
            [
                r#"dynamodb:UpdateItem on arn:aws:dynamodb:us-east-1:000000000000:table/ctl, dynamodb:Attributes ["pk", "sk", "us"], dynamodb:LeadingKeys ["KEY#1"]"#
            ]
        );
    }

    #[test]
    fn a_query_names_the_partition_that_it_compares_with() {
        let query = json!({"TableName": "job", "IndexName": "due",
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :from AND :to",
            "ExpressionAttributeValues": {":pk": {"S": "J#1"}, ":from": {"S": "C"}, ":to": {"S": "D"}}});
        assert_eq!(
            posted("dynamodb", "DynamoDB_20120810.Query", &query),
            [
                r#"dynamodb:Query on arn:aws:dynamodb:us-east-1:000000000000:table/job/index/due, dynamodb:LeadingKeys ["J#1"]"#
            ]
        );
    }

    #[test]
    fn batches_and_transactions_ask_for_each_of_their_parts() {
        let key = |pk: &str| json!({"pk": {"S": pk}});
        let batch = json!({"RequestItems": {"adm": {"Keys": [key("A"), key("B")]}}});
        assert_eq!(
            posted("dynamodb", "DynamoDB_20120810.BatchGetItem", &batch),
            [
                r#"dynamodb:BatchGetItem on arn:aws:dynamodb:us-east-1:000000000000:table/adm, dynamodb:LeadingKeys ["A", "B"]"#
            ]
        );
        let transaction = json!({"TransactItems": [
            {"Update": {"TableName": "adm", "Key": key("A")}}, {"Put": {"TableName": "job", "Item": key("J")}}]});
        let asked = asked("dynamodb", Some("DynamoDB_20120810.TransactWriteItems"), ("POST", "/", ""), &transaction);
        let actions: Vec<&str> = asked.iter().map(|call| call.action.as_str()).collect();
        assert_eq!(actions, ["dynamodb:UpdateItem", "dynamodb:PutItem"]);
    }

    #[test]
    fn a_queue_is_named_by_its_name_or_its_url_and_a_batch_is_what_it_is_a_batch_of() {
        let url = json!({"QueueUrl": "http://localhost:1/000000000000/prod-main-p0"});
        assert_eq!(
            posted("sqs", "AmazonSQS.DeleteMessageBatch", &url),
            ["sqs:DeleteMessage on arn:aws:sqs:us-east-1:000000000000:prod-main-p0"]
        );
        let name = json!({"QueueName": "prod-main-p0"});
        assert_eq!(
            posted("sqs", "AmazonSQS.GetQueueUrl", &name),
            ["sqs:GetQueueUrl on arn:aws:sqs:us-east-1:000000000000:prod-main-p0"]
        );
    }

    #[test]
    fn objects_are_read_written_and_listed() {
        let of = |method: &str, path: &str, query: &str| {
            asked("s3", None, (method, path, query), &Value::Null)[0].to_string()
        };
        assert_eq!(of("GET", "/b/req/1", "x-id=GetObject"), "s3:GetObject on arn:aws:s3:::b/req/1");
        assert_eq!(of("PUT", "/b/req/1", "x-id=PutObject"), "s3:PutObject on arn:aws:s3:::b/req/1");
        assert_eq!(
            of("GET", "/b", "list-type=2&prefix=req%2F"),
            r#"s3:ListBucket on arn:aws:s3:::b, s3:prefix ["req/"]"#
        );
    }

    #[test]
    fn what_is_not_understood_is_said_and_not_guessed() {
        let wire =
            Wire { service: "s3", region: "r", target: None, method: "PUT", path: "/b/k", query: "acl", body: b"" };
        assert!(calls(&wire).is_err());
        assert!(calls(&Wire { service: "iam", ..wire }).is_err());
    }
}
