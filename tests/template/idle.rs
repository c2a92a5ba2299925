//! What a month costs in which nobody asks anything: every resource of the translated templates, with the switches as they
//! are by default, at the list prices of `infra/prices.json`; nothing is free because it is little.

use std::collections::BTreeMap;

use harness::idle;
use serde_json::{Map, Value};

use crate::{object, several, source, templates};

/// Values of parameters by name. What is known only after a deployment is missing.
type Parameters = BTreeMap<String, String>;

/// A price by its name in the list.
fn price(name: &str) -> f64 {
    let prices: Value = serde_json::from_str(&source("infra/prices.json")).unwrap();
    prices["prices"][name]["usd"].as_f64().unwrap_or_else(|| panic!("no price {name}"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A template's parameters: what it is given, and its own defaults.
fn parameters(template: &Value, given: &Parameters) -> Parameters {
    let declared = object(&template["Parameters"]).iter();
    let defaults = declared.filter_map(|(name, about)| Some((name.clone(), text(&about["Default"])?)));
    let mut all: Parameters = defaults.collect();
    all.extend(given.clone());
    all
}

/// Whether a condition of a template holds.
fn holds(template: &Value, condition: &Value, parameters: &Parameters) -> bool {
    let value = |of: &Value| match of["Ref"].as_str() {
        Some(name) => parameters.get(name).cloned(),
        None => text(of),
    };
    if let Some(name) = condition["Condition"].as_str() {
        return holds(template, &template["Conditions"][name], parameters);
    }
    let (function, of) = object(condition).iter().next().unwrap();
    let of = several(of);
    let mut each = of.iter().map(|of| holds(template, of, parameters));
    match function.as_str() {
        "Fn::Equals" => value(of[0]) == value(of[1]),
        "Fn::Not" => each.all(|one| !one),
        "Fn::And" => each.all(|one| one),
        "Fn::Or" => each.any(|one| one),
        other => panic!("{other} in a condition"),
    }
}

/// Adds what the resources of a template cost to `month`.
fn itemise(template: &Value, given: &Parameters, month: &mut BTreeMap<String, f64>) {
    let parameters = parameters(template, given);
    for (name, resource) in object(&template["Resources"]) {
        if let Some(condition) = resource["Condition"].as_str()
            && !holds(template, &template["Conditions"][condition], &parameters)
        {
            continue;
        }
        if resource["Type"] == "AWS::CloudFormation::Stack" {
            let file = resource["Properties"]["TemplateURL"].as_str().unwrap().strip_prefix("infra/").unwrap();
            let handed = object(&resource["Properties"]["Parameters"]).iter();
            let handed = handed.filter_map(|(name, value)| {
                let value = value["Ref"].as_str().map_or_else(|| text(value), |of| parameters.get(of).cloned());
                Some((name.clone(), value?))
            });
            itemise(&templates()["nested"][file], &handed.collect(), month);
            continue;
        }
        let kind = resource["Type"].as_str().unwrap();
        for (item, usd) in items(name, kind, object(&resource["Properties"])) {
            *month.entry(item).or_default() += usd;
        }
    }
}

/// What a resource costs in an idle month.
fn items(name: &str, kind: &str, properties: &Map<String, Value>) -> Vec<(String, f64)> {
    let one = |item: &str, usd: f64| vec![(item.to_owned(), usd)];
    match kind {
        "AWS::SecretsManager::Secret" => one("secrets", price("secret_month")),
        "AWS::KMS::Key" => one("keys", price("key_month")),
        "AWS::CloudWatch::Dashboard" => one("dashboards", price("dashboard_month")),
        "AWS::CloudWatch::Alarm" => {
            let metrics = properties.get("Metrics").and_then(Value::as_array).map_or(1, |metrics| {
                // Those that are read; the expressions over them are not billed. A query reads what it finds: one at rest.
                let read = |metric: &&Value| {
                    metric["MetricStat"].is_object() || metric["Expression"].to_string().contains("SELECT")
                };
                metrics.iter().filter(read).count().max(1)
            });
            one("alarms", metrics as f64 * price("alarm_metric_month"))
        }
        "AWS::WAFv2::WebACL" => {
            let rules = properties["Rules"].as_array().unwrap().len() as f64;
            one("firewall", price("waf_acl_month") + rules * price("waf_rule_month"))
        }
        "AWS::Events::Rule" => {
            // One that waits for an event waits for nothing.
            properties.get("ScheduleExpression").map_or_else(Vec::new, |schedule| {
                let target = properties["Targets"][0]["Arn"]["Ref"].as_str().unwrap();
                let function = target.strip_suffix("Aliaslive").unwrap().to_lowercase();
                ticks(name, schedule.as_str().unwrap(), &function)
            })
        }
        // Free, or paid by what is asked of them, which is nothing.
        "AWS::ApiGateway::RestApi"
        | "AWS::ApiGateway::Deployment"
        | "AWS::ApiGateway::Stage"
        | "AWS::Budgets::Budget"
        | "AWS::CodeDeploy::Application"
        | "AWS::CodeDeploy::DeploymentGroup"
        | "AWS::DynamoDB::Table"
        | "AWS::EC2::SecurityGroup"
        | "AWS::IAM::InstanceProfile"
        | "AWS::IAM::Role"
        | "AWS::Lambda::Alias"
        | "AWS::Lambda::EventInvokeConfig"
        | "AWS::Lambda::Function"
        | "AWS::Lambda::Permission"
        | "AWS::Lambda::Version"
        | "AWS::Logs::LogGroup"
        | "AWS::S3::Bucket"
        | "AWS::S3::BucketPolicy"
        | "AWS::SNS::Subscription"
        | "AWS::SNS::Topic"
        | "AWS::SQS::Queue"
        | "AWS::WAFv2::WebACLAssociation" => Vec::new(),
        other => panic!("{name}: what does a {other} cost in an idle month?"),
    }
}

/// What a function costs that a schedule calls and that finds nothing to do, at the bounds that it is held to.
fn ticks(rule: &str, schedule: &str, function: &str) -> Vec<(String, f64)> {
    let words = schedule.strip_prefix("rate(").unwrap_or_else(|| panic!("{rule}: no price for {schedule}"));
    let minutes: f64 = words.split(' ').next().unwrap().parse().unwrap();
    assert!(words.contains("minute"), "{rule}: no price for {schedule}");
    let most = idle::MOST.into_iter().find(|most| most.function == function);
    let most = most.unwrap_or_else(|| panic!("{rule}: {function} is held to no bound"));
    let millions = 60.0 * 24.0 * 365.0 / 12.0 / minutes / 1e6;
    let item = |name: &str, usd: f64| (format!("{function}: {name}"), usd);
    let gb_seconds = millions * 1e6 * idle::TICK.as_secs_f64() * 0.25;
    vec![
        item("function", millions * price("lambda_request_million") + gb_seconds * price("lambda_gb_second_arm")),
        item("reads", millions * f64::from(most.reads) * price("dynamodb_read_million")),
        item("writes", millions * f64::from(most.writes) * price("dynamodb_write_million")),
        item("queues", millions * f64::from(most.queues) * price("sqs_request_million")),
        item("log", millions * f64::from(idle::LOG_BYTES) / 1e3 * price("logs_gb")),
    ]
}

#[test]
fn an_idle_month_of_the_default_template_costs_less_than_five_dollars() {
    let mut month = BTreeMap::new();
    itemise(&templates()["root"], &Parameters::new(), &mut month);
    month.insert("metrics".to_owned(), f64::from(idle::METRICS) * price("custom_metric_month"));
    for (item, usd) in &month {
        println!("{item:<20} {usd:>6.3}");
    }
    let whole: f64 = month.values().sum();
    println!("{:<20} {whole:>6.3} dollars a month", "in all");
    assert!(month.len() > 5 && whole < 5.0, "{whole}");
    // The switches are seen: with everything on it costs more.
    let everything = [("Alarms", "all"), ("CustomerKey", "yes"), ("Dashboards", "yes"), ("Firewall", "yes")];
    let everything = everything.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut dear = BTreeMap::new();
    itemise(&templates()["root"], &everything.into(), &mut dear);
    let dear: f64 = dear.values().sum();
    println!("with every switch on {dear:>6.3}");
    assert!(dear > whole + 9.0 + 7.0 + 1.0, "{dear}");
}
