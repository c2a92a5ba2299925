//! The templates against the code they deploy: what CloudFormation would only find out at deployment, or nobody until
//! the first request.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise and prints its figures")]

#[path = "template/idle.rs"]
mod idle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use harness::{given, root};
use penstock_policy::classes::Class;
use penstock_service::config::{Timing, VARIABLES};
use serde_json::{Map, Value, json};

/// A program of the Python environment that has aws-sam-cli.
fn sam(program: &str) -> Command {
    let mut command = Command::new(Path::new(&given("PENSTOCK_SAM")).join(program));
    command.current_dir(root()).env("AWS_DEFAULT_REGION", "us-east-1").env("SAM_CLI_TELEMETRY", "0");
    command
}

/// Runs a command and gives what it printed.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

/// The templates that the root's nested stacks are made of.
fn nested_files() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("infra")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}

/// Everything `template/translate.py` says.
fn templates() -> &'static Value {
    static TEMPLATES: OnceLock<Value> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let mut command = sam("python");
        command.args(["tests/template/translate.py", "template.yaml"]).args(nested_files());
        serde_json::from_str(&printed(&mut command)).unwrap()
    })
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("not an object: {value}"))
}

fn names(object: &Map<String, Value>) -> BTreeSet<&str> {
    object.keys().map(String::as_str).collect()
}

/// All resources of a type, of the root as SAM translates it and of the nested stacks, with their names.
fn resources(kind: &str) -> BTreeMap<&'static str, &'static Value> {
    let nested = object(&templates()["nested"]).values();
    let all = nested.chain([&templates()["root"]]).flat_map(|template| object(&template["Resources"]));
    all.filter(|(_, resource)| resource["Type"] == kind).map(|(name, resource)| (name.as_str(), resource)).collect()
}

/// The check of a release, the one function that is no program of ours.
const PREFLIGHT: &str = "Preflight";

/// Our functions as SAM translates them, by the binary that each is built from.
fn functions() -> BTreeMap<&'static str, (&'static str, &'static Value)> {
    let translated = resources("AWS::Lambda::Function").into_iter().filter(|(name, _)| *name != PREFLIGHT);
    let named = translated.map(|(name, function)| {
        let metadata = &templates()["source"]["Resources"][name]["Metadata"];
        assert_eq!(metadata["BuildMethod"], "rust-cargolambda", "{name}");
        (metadata["BuildProperties"]["Binary"].as_str().unwrap(), (name, &function["Properties"]))
    });
    named.collect()
}

/// Every route of the API with its integration.
fn integrations() -> Vec<(String, &'static str, &'static Value)> {
    let paths = object(&templates()["root"]["Resources"]["Api"]["Properties"]["Body"]["paths"]);
    let of_path = |(path, methods): (&'static String, &'static Value)| {
        let methods = object(methods).iter();
        methods.map(|(method, about)| (method.to_uppercase(), path.as_str(), &about["x-amazon-apigateway-integration"]))
    };
    paths.iter().flat_map(of_path).collect()
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The number, or product of numbers, that stands in `text` right behind `marker`.
fn number(text: &str, marker: &str) -> u64 {
    let at = text.find(marker).unwrap_or_else(|| panic!("{marker} is not there")) + marker.len();
    let expression: String = text[at..].chars().take_while(|c| c.is_ascii_digit() || " *".contains(*c)).collect();
    expression.split('*').map(|factor| factor.trim().parse::<u64>().unwrap()).product()
}

/// Shows every object in `value` to `look`.
fn visit(value: &'static Value, look: &mut impl FnMut(&'static Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            look(object);
            object.values().for_each(|inner| visit(inner, look));
        }
        Value::Array(items) => items.iter().for_each(|inner| visit(inner, look)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One value or several, as CloudFormation lets either stand.
fn several(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |items| items.iter().collect())
}

#[test]
fn sam_and_cloudformation_find_nothing_to_object_to() {
    printed(sam("sam").args(["validate", "--lint", "--template", "template.yaml"]));
    printed(sam("cfn-lint").args(nested_files()));
}

#[test]
fn every_function_is_built_from_a_binary_and_every_binary_is_deployed() {
    let metadata = ["metadata", "--offline", "--no-deps", "--format-version", "1"];
    let metadata: Value =
        serde_json::from_str(&printed(Command::new(env!("CARGO")).args(metadata).current_dir(root()))).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "penstock-functions").unwrap();
    let targets = package["targets"].as_array().unwrap().iter().filter(|target| target["kind"] == json!(["bin"]));
    let binaries: BTreeSet<&str> = targets.map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(functions().into_keys().collect::<BTreeSet<_>>(), binaries);
    // Where cargo finds these binaries: `cargo lambda build --bin` looks in the package it is started in.
    let folder = templates()["source"]["Globals"]["Function"]["CodeUri"].as_str().unwrap();
    assert_eq!(root().join(folder).join("Cargo.toml"), Path::new(package["manifest_path"].as_str().unwrap()));
    for (binary, (_, function)) in functions() {
        assert_eq!((&function["Runtime"], &function["Handler"]), (&json!("provided.al2023"), &json!("bootstrap")));
        assert_eq!(function["Architectures"], json!([{"Ref": "Architecture"}]), "{binary}");
    }
}

#[test]
fn every_function_gets_the_variables_it_reads_and_no_others() {
    let known: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
    let required: BTreeSet<&str> =
        VARIABLES.iter().filter(|variable| variable.required).map(|variable| variable.name).collect();
    for (binary, (_, function)) in functions() {
        let variables = object(&function["Environment"]["Variables"]).keys().map(String::as_str);
        let given: BTreeSet<&str> = variables.filter(|name| name.starts_with("PENSTOCK_")).collect();
        assert!(given.is_superset(&required), "{binary} lacks {:?}", required.difference(&given));
        assert!(given.is_subset(&known), "{binary} does not read {:?}", given.difference(&known));
    }
}

/// The handlers write Lambda's streaming form, which the gateway reads only if it calls the function that way.
#[test]
fn every_route_is_streamed_from_the_functions_live_alias() {
    for (method, path, integration) in integrations() {
        let uri = integration["uri"]["Fn::Sub"].as_str().unwrap();
        assert!(uri.contains("lambda:path/2021-11-15/functions/${"), "{method} {path}: {uri}");
        assert!(uri.ends_with("Aliaslive}/response-streaming-invocations"), "{method} {path}: {uri}");
        assert_eq!(integration["responseTransferMode"], "STREAM", "{method} {path}");
    }
    let all = integrations();
    let (_, _, chat) = all.iter().find(|(_, path, _)| *path == "/v1/chat/completions").unwrap();
    assert_eq!(chat["timeoutInMillis"], 900_000);
    assert_eq!(functions()["front"].1["Timeout"], 900, "the function must not end before the gateway does");
}

/// The routes that `fn <name>()` of the router adds.
fn routes(router: &str, name: &str) -> BTreeSet<(String, String)> {
    let begin = router.find(&format!("fn {name}() -> Router")).unwrap();
    let body = &router[begin..begin + router[begin..].find("\n}").unwrap()];
    let mut found = BTreeSet::new();
    for route in body.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            let called = |at: usize| !route[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if route.match_indices(&format!("{method}(")).any(|(at, _)| called(at)) {
                found.insert((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    found
}

#[test]
fn a_release_of_front_is_asked_first_then_tried_and_taken_back_by_an_alarm() {
    let groups = resources("AWS::CodeDeploy::DeploymentGroup");
    assert_eq!(groups.keys().collect::<Vec<_>>(), [&"FrontDeploymentGroup"], "what nobody waits for changes at once");
    let group = &groups["FrontDeploymentGroup"]["Properties"];
    let alarms = &group["AlarmConfiguration"]["Fn::If"];
    assert_eq!(alarms[0], "AlarmsAreWanted");
    assert_eq!(alarms[1]["Alarms"][0]["Name"], json!({"Fn::GetAtt": ["Observability", "Outputs.CanaryAlarm"]}));
    let rolled_back: Vec<&Value> = several(&group["AutoRollbackConfiguration"]["Events"]);
    assert!(
        rolled_back.contains(&&json!("DEPLOYMENT_STOP_ON_ALARM"))
            && rolled_back.contains(&&json!("DEPLOYMENT_FAILURE"))
    );
    let release = &templates()["source"]["Parameters"]["Release"];
    for name in several(&release["AllowedValues"]) {
        let name = name.as_str().unwrap();
        assert!(name == "AllAtOnce" || name.starts_with("Canary") || name.starts_with("Linear"), "{name}");
    }
    let alias = &resources("AWS::Lambda::Alias")["FrontAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"];
    assert_eq!(alias["BeforeAllowTrafficHook"]["Ref"], PREFLIGHT);
    let check = &resources("AWS::Lambda::Function")[PREFLIGHT]["Properties"];
    let version = check["Environment"]["Variables"]["NEW_VERSION"]["Ref"].as_str().unwrap();
    assert!(resources("AWS::Lambda::Version")[version]["Properties"]["FunctionName"]["Ref"] == "Front", "{version}");
    assert_eq!(check["Environment"]["Variables"]["PENSTOCK_MARKER_SECRET"], "", "the check needs no secret");
    assert!(check["FunctionName"]["Fn::Sub"].as_str().unwrap().starts_with("CodeDeployHook_"));
}

#[test]
fn a_call_that_nobody_waits_for_is_not_lost_without_a_word() {
    let configurations = resources("AWS::Lambda::EventInvokeConfig");
    for (binary, ..) in SCHEDULED {
        let (name, _) = functions()[binary];
        let of = configurations.values().find(|config| config["Properties"]["FunctionName"]["Ref"] == name);
        let of = &of.unwrap_or_else(|| panic!("{binary} fails unheard"))["Properties"];
        assert_eq!(of["DestinationConfig"]["OnFailure"]["Destination"], json!({"Fn::GetAtt": ["FailedCalls", "Arn"]}));
        assert_eq!(of["Qualifier"], "live", "{binary}: the schedule calls the alias");
    }
}

/// In both positions: what a switch adds, and that nothing of it is there otherwise.
#[test]
fn switches_add_what_they_say_and_nothing_else_is_conditional() {
    let switched = |condition: &str| {
        let all = object(&templates()["root"]["Resources"]).iter();
        let mut nested: Vec<&str> = object(&templates()["nested"]["data.yaml"]["Resources"])
            .iter()
            .filter(|(_, resource)| resource["Condition"] == condition)
            .map(|(name, _)| name.as_str())
            .collect();
        nested.extend(all.filter(|(_, resource)| resource["Condition"] == condition).map(|(name, _)| name.as_str()));
        nested
    };
    assert_eq!(switched("FirewallIsWanted"), ["Waf"]);
    assert_eq!(switched("DashboardsAreWanted"), ["Boards"]);
    assert_eq!(switched("KeyIsOurs"), ["Key"]);
    let tables = resources("AWS::DynamoDB::Table");
    for (name, table) in tables {
        let words = matches!(name, "JobTable" | "CacheTable");
        let key = &table["Properties"]["SSESpecification"]["Fn::If"];
        assert_eq!(
            key[0] == "KeyIsOurs" && key[1]["SSEType"] == "KMS",
            words,
            "{name} holds words of tenants: {words}"
        );
    }
    let mut users = 0;
    let mut count = |object: &Map<String, Value>| {
        if object.get("Sid") == Some(&json!("UseOurKeyThroughTheStores")) {
            users += 1;
            assert!(object["Condition"]["StringLike"]["kms:ViaService"].is_array(), "the key is for the stores alone");
        }
    };
    visit(&templates()["root"], &mut count);
    visit(&templates()["nested"], &mut count);
    // Every function has to do with jobs, and so have workers.
    assert_eq!(users, functions().len() + 1);
    let rules = several(&resources("AWS::WAFv2::WebACL")["WebAcl"]["Properties"]["Rules"]);
    let text = serde_json::to_string(&rules).unwrap();
    assert!(text.contains("RateBasedStatement") && !text.contains("CommonRuleSet"), "no rule may look into prompts");
}

/// The functions that a schedule calls, not the API: how often, and for how many seconds.
const SCHEDULED: [(&str, &str, u64); 4] = [
    ("control", "rate(1 minute)", 60),
    ("preload", "rate(5 minutes)", 290),
    ("reconcile", "rate(1 minute)", 60),
    ("split", "rate(1 minute)", 60),
];

fn is_scheduled(binary: &str) -> bool {
    SCHEDULED.iter().any(|(scheduled, ..)| *scheduled == binary)
}

#[test]
fn what_no_client_calls_is_called_by_a_schedule_that_outlives_no_call() {
    let rules = resources("AWS::Events::Rule");
    let (timed, told): (Vec<&Value>, Vec<&Value>) =
        rules.into_values().partition(|rule| rule["Properties"]["ScheduleExpression"].is_string());
    let alias_of = |rule: &Value| rule["Properties"]["Targets"][0]["Arn"]["Ref"].as_str().unwrap().to_owned();
    for (binary, rate, timeout) in SCHEDULED {
        let (name, function) = functions()[binary];
        let alias = format!("{name}Aliaslive");
        let rule = timed.iter().find(|rule| alias_of(rule) == alias);
        let rule = rule.unwrap_or_else(|| panic!("nothing calls {binary}"));
        assert_eq!(rule["Properties"]["ScheduleExpression"], rate, "{binary}");
        // The next call finds the lease of the last one lapsed or about to.
        assert_eq!(function["Timeout"], timeout, "{binary}");
        let permitted = resources("AWS::Lambda::Permission").into_values().any(|permission| {
            let of = &permission["Properties"];
            of["Principal"] == "events.amazonaws.com" && of["FunctionName"]["Ref"] == alias.as_str()
        });
        assert!(permitted, "{binary} may not be called");
    }
    assert_eq!(timed.len(), SCHEDULED.len());
    // A new list of prepared questions is a call too.
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(alias_of(told), format!("{}Aliaslive", functions()["preload"].0));
    let list = &told["Properties"]["EventPattern"]["detail"]["object"]["key"];
    assert_eq!(*list, json!([penstock_service::PREPARED_LIST]));
    let bucket = resources("AWS::S3::Bucket")["PayloadBucket"];
    let notifies = &bucket["Properties"]["NotificationConfiguration"]["EventBridgeConfiguration"];
    assert_eq!(notifies["EventBridgeEnabled"], true);
}

#[test]
fn the_api_has_the_routers_routes_each_on_the_function_that_serves_it() {
    let router = source("crates/service/src/door/http.rs");
    for (binary, (name, _)) in functions() {
        let main = source(&format!("functions/src/bin/{binary}.rs"));
        if is_scheduled(binary) {
            assert!(integrations().iter().all(|(.., to)| !to["uri"].to_string().contains(&format!("{name}Alias"))));
            continue;
        }
        assert!(main.contains(&format!("{binary}_router")), "{binary} serves other routes than its own");
        let alias = format!("${{{name}Aliaslive}}");
        let all = integrations().into_iter();
        let offered: BTreeSet<(String, String)> = all
            .filter(|(_, _, integration)| integration["uri"]["Fn::Sub"].as_str().unwrap().contains(&alias))
            .map(|(method, path, _)| (method, path.to_owned()))
            .collect();
        assert!(!offered.is_empty(), "{binary} has no route");
        assert_eq!(offered, routes(&router, binary), "{binary}");
    }
}

#[test]
fn what_the_gateway_answers_by_itself_is_an_error_in_openais_form() {
    let answers =
        object(&templates()["root"]["Resources"]["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]);
    for general in ["DEFAULT_4XX", "DEFAULT_5XX"] {
        assert!(answers.contains_key(general), "{general}");
    }
    let mut codes = BTreeMap::new();
    for (name, answer) in answers {
        let text = answer["responseTemplates"]["application/json"].as_str().unwrap();
        // The gateway puts a quoted text there.
        let text = text.replace("$context.error.messageString", "\"message\"");
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let error = object(&body["error"]);
        assert_eq!(names(error), BTreeSet::from(["code", "message", "param", "type"]), "{name}");
        assert!(error["message"].is_string() && error["type"].is_string() && error["param"].is_null(), "{name}");
        codes.insert(name.as_str(), (answer["statusCode"].as_str(), error["code"].as_str().unwrap().to_owned()));
    }
    assert_eq!(codes["MISSING_AUTHENTICATION_TOKEN"], (Some("404"), "unknown_url".to_owned()));
    assert_eq!(codes["THROTTLED"], (Some("429"), "rate_limit_exceeded".to_owned()));
    let headers = &answers["THROTTLED"]["responseParameters"];
    assert_eq!(headers["gatewayresponse.header.Retry-After"], "'1'");
    assert_eq!(headers["gatewayresponse.header.Retry-After-Ms"], "'1000'");
}

#[test]
fn tables_have_the_keys_and_the_expiry_that_the_adapter_makes_them_with() {
    let adapter = source("crates/aws/src/setup.rs");
    assert!(adapter.contains("TimeToLiveSpecification::builder().attribute_name(\"ttl\").enabled(true)"));
    let tables = resources("AWS::DynamoDB::Table");
    let names = [("adm", "AdmTable"), ("job", "JobTable"), ("cache", "CacheTable"), ("ctl", "CtlTable")];
    assert_eq!(tables.len(), names.len());
    for (name, resource) in names {
        let sorted = adapter.contains(&format!("(&names.{name}_table, true)"));
        assert!(sorted || adapter.contains(&format!("(&names.{name}_table, false)")), "the adapter has no {name}");
        let keys: &[(&str, &str)] = if sorted { &[("pk", "HASH"), ("sk", "RANGE")] } else { &[("pk", "HASH")] };
        let schema: Vec<Value> =
            keys.iter().map(|(key, kind)| json!({"AttributeName": key, "KeyType": kind})).collect();
        // The index of jobs that are not over, on the one table that has any.
        let indexed: &[&str] = if name == "job" { &["gp", "gs"] } else { &[] };
        let types: Vec<Value> = keys
            .iter()
            .map(|(key, _)| key)
            .chain(indexed)
            .map(|key| json!({"AttributeName": key, "AttributeType": "S"}))
            .collect();
        let table = &tables[resource]["Properties"];
        assert_eq!(
            table["GlobalSecondaryIndexes"].as_array().map_or(0, Vec::len),
            usize::from(name == "job"),
            "{name}"
        );
        assert_eq!(table["KeySchema"], json!(schema), "{name}");
        assert_eq!(table["AttributeDefinitions"], json!(types), "{name}");
        assert_eq!(table["TimeToLiveSpecification"], json!({"AttributeName": "ttl", "Enabled": true}), "{name}");
        assert_eq!(table["BillingMode"], "PAY_PER_REQUEST", "{name}");
        let fuse = &table["OnDemandThroughput"]["MaxWriteRequestUnits"]["Ref"];
        assert_eq!(*fuse, json!(format!("Max{}Writes", resource.trim_end_matches("Table"))), "{name}");
        // What cannot be made again is kept and can be wound back.
        let precious = matches!(name, "job" | "ctl");
        let policy = if precious { "Retain" } else { "Delete" };
        for kept in ["DeletionPolicy", "UpdateReplacePolicy"] {
            assert_eq!(tables[resource][kept], policy, "{name}");
        }
        let recoverable = table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] == true;
        assert_eq!(recoverable, precious, "{name}");
    }
}

#[test]
fn open_and_parked_jobs_are_indexed_by_what_the_adapter_writes_into_their_records() {
    let guard = source("crates/aws/src/jobs/guard.rs");
    assert!(guard.contains(r#"INDEXED: [&str; 3] = ["gp", "gs", "tok"]"#));
    assert!(source("crates/aws/src/parking.rs").contains(r#"INDEX: &str = "open""#));
    let index = &resources("AWS::DynamoDB::Table")["JobTable"]["Properties"]["GlobalSecondaryIndexes"][0];
    assert_eq!(index["IndexName"], "open");
    let key = |name: &str, kind: &str| json!({"AttributeName": name, "KeyType": kind});
    assert_eq!(index["KeySchema"], json!([key("gp", "HASH"), key("gs", "RANGE")]));
    assert_eq!(index["Projection"], json!({"ProjectionType": "INCLUDE", "NonKeyAttributes": ["tok"]}));
}

#[test]
fn queues_keep_messages_longer_than_their_class_is_patient_and_payloads_longer_still() {
    let adapter = source("crates/aws/src/setup.rs");
    let most_receives = number(&adapter, "MOST_RECEIVES: u32 = ");
    let queues = resources("AWS::SQS::Queue");
    assert_eq!(queues.len(), 2 * Class::ALL.len() + 1, "and one of failed calls");
    let named = |name: &str| {
        let name = json!({"Fn::Sub": format!("${{Stage}}-${{DefaultPool}}-{name}")});
        let (resource, queue) = queues.iter().find(|(_, queue)| queue["Properties"]["QueueName"] == name).unwrap();
        (*resource, &queue["Properties"])
    };
    let mut longest = Duration::ZERO;
    for class in Class::ALL {
        let (_, queue) = named(class.name());
        let (dead, dead_letters) = named(&format!("{}-dlq", class.name()));
        let redrive = json!({"deadLetterTargetArn": {"Fn::GetAtt": [dead, "Arn"]}, "maxReceiveCount": most_receives});
        assert_eq!(queue["RedrivePolicy"], redrive, "{}", class.name());
        let kept = queue["MessageRetentionPeriod"].as_u64().unwrap();
        assert_eq!(kept, number(&adapter, &format!("Class::{class:?} => Duration::from_secs(")), "{}", class.name());
        assert!(Duration::from_secs(kept) > class.patience(), "{}", class.name());
        longest = longest.max(Duration::from_secs(kept));
        let dead_kept = number(&adapter, "DEAD_LETTERS_KEPT: Duration = Duration::from_secs(");
        assert_eq!(dead_letters["MessageRetentionPeriod"], dead_kept, "{}", class.name());
        assert_eq!(queue["VisibilityTimeout"], Timing::default().visibility.as_secs(), "{}", class.name());
        assert_eq!(queue["VisibilityTimeout"], number(&adapter, "VISIBILITY: Duration = Duration::from_secs("));
        assert!(queue["SqsManagedSseEnabled"] == true && dead_letters["SqsManagedSseEnabled"] == true);
    }
    let buckets = resources("AWS::S3::Bucket");
    let rules = buckets["PayloadBucket"]["Properties"]["LifecycleConfiguration"]["Rules"].as_array().unwrap();
    let expiring: Vec<&Value> = rules.iter().filter(|rule| rule["ExpirationInDays"].is_u64()).collect();
    let days = |prefix: &str| {
        let rule = expiring.iter().find(|rule| rule["Prefix"] == prefix);
        Duration::from_secs(rule.unwrap()["ExpirationInDays"].as_u64().unwrap() * 24 * 3600)
    };
    assert_eq!(expiring.len(), 4);
    assert!(days("req/") > longest, "a payload could vanish before its message");
    assert!(days("res/") > longest, "vectors could vanish before their record");
    let life = penstock_policy::cache::LONGEST.mul_f64(1.3) + penstock_policy::cache::STALE_FOR;
    assert!(days("kept/") > life, "a kept answer could vanish before its entry");
    assert!(days("resp/") >= days("req/"), "a response could vanish before its job");
    let writers = [
        ("req/", "admission/draft.rs"),
        ("res/", "worker/work/embedding.rs"),
        ("kept/", "kept/keeping.rs"),
        ("resp/", "door/responses/noted.rs"),
    ];
    for (prefix, file) in writers {
        let code = source(&format!("crates/service/src/{file}"));
        assert!(code.contains(&format!("\"{prefix}{{")), "{prefix} lies elsewhere");
    }
}

/// The name of the SDK's method for an action: `dynamodb:GetItem` is `get_item`.
fn method(action: &str) -> String {
    let verb = action.split_once(':').unwrap().1;
    let letters = verb.chars().enumerate().flat_map(|(at, c)| {
        let gap = (at > 0 && c.is_ascii_uppercase()).then_some('_');
        gap.into_iter().chain([c.to_ascii_lowercase()])
    });
    letters.collect()
}

#[test]
fn a_role_may_do_named_things_to_named_things_and_only_what_the_adapter_does() {
    let files = [
        "answers", "attempts", "blobs", "board", "census", "control", "jobs/mod", "limits", "markers", "parking",
        "queue", "shelf", "table", "tally",
    ];
    let adapter: String = files.iter().map(|file| source(&format!("crates/aws/src/{file}.rs"))).collect();
    let mut statements = 0;
    visit(templates(), &mut |object| {
        assert!(!object.contains_key("ManagedPolicyArns"), "managed policies allow more than is needed: {object:?}");
        // The policy of a key leaves it to the roles, which this form says.
        let of_account = object.get("Principal").is_some_and(|principal| principal["AWS"].is_object());
        if object.get("Effect") != Some(&json!("Allow")) || of_account {
            return;
        }
        statements += 1;
        for action in several(&object["Action"]) {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{object:?}");
            // What Lambda itself does, what services do to become the role, what only colours S3's answers, what the stores do
            // with our key, and what a release takes.
            let not_ours =
                ["logs:", "kms:", "lambda:", "codedeploy:", "cloudwatch:"].iter().any(|of| action.starts_with(of))
                    || ["sts:AssumeRole", "s3:ListBucket"].contains(&action);
            assert!(not_ours || adapter.contains(&format!(".{}()", method(action))), "nothing calls {action}");
            let keys = &object.get("Condition").unwrap_or(&Value::Null)["ForAllValues:StringLike"];
            let bounded = keys["dynamodb:LeadingKeys"].as_array().is_some_and(|keys| !keys.contains(&json!("*")));
            assert!(bounded || !action.starts_with("dynamodb:"), "{action} on every key: {object:?}");
        }
        let resources = object.get("Resource").map(several).unwrap_or_default();
        assert!(resources.iter().all(|resource| **resource != "*"), "{object:?}");
        assert!(object.get("NotAction").is_none() && object.get("NotResource").is_none(), "{object:?}");
        // Only a trust policy has a principal, and it trusts one service of AWS.
        match object.get("Principal") {
            Some(principal) => assert!(principal["Service"].is_string(), "{object:?}"),
            None => assert!(!resources.is_empty(), "{object:?}"),
        }
    });
    assert!(statements > 0);
    let roles = resources("AWS::IAM::Role");
    for (binary, (_, function)) in functions() {
        let role = function["Role"]["Fn::GetAtt"][0].as_str().unwrap();
        assert!(roles.contains_key(role), "{binary} has no role of its own");
    }
    assert_eq!(roles.len(), functions().len() + 3, "one role a function, and for workers, for a release and its check");
}

#[test]
fn nothing_is_reachable_from_outside_but_the_api() {
    for (name, group) in resources("AWS::EC2::SecurityGroup") {
        assert!(group["Properties"]["SecurityGroupIngress"].is_null(), "{name}");
    }
    for kind in ["AWS::EC2::SecurityGroupIngress", "AWS::Lambda::Url", "AWS::SQS::QueuePolicy"] {
        assert!(resources(kind).is_empty(), "{kind}");
    }
    for (name, permission) in resources("AWS::Lambda::Permission") {
        let permission = &permission["Properties"];
        let by = permission["Principal"].as_str().unwrap();
        assert!(["apigateway.amazonaws.com", "events.amazonaws.com"].contains(&by), "{name}: {by}");
        assert!(!permission["SourceArn"].is_null(), "{name}");
    }
    for (name, bucket) in resources("AWS::S3::Bucket") {
        let block = object(&bucket["Properties"]["PublicAccessBlockConfiguration"]);
        assert!(block.len() == 4 && block.values().all(|on| *on == true), "{name}");
        assert!(bucket["Properties"]["BucketEncryption"].is_object(), "{name}");
        let policies = resources("AWS::S3::BucketPolicy");
        let policy = policies.values().find(|policy| policy["Properties"]["Bucket"]["Ref"] == name).unwrap();
        let first = &policy["Properties"]["PolicyDocument"]["Statement"][0];
        assert_eq!((&first["Effect"], &first["Principal"]), (&json!("Deny"), &json!("*")), "{name}");
        assert_eq!(first["Condition"]["Bool"]["aws:SecureTransport"], "false", "{name}");
    }
}

/// Linters read one template at a time; what passes between them is checked here.
#[test]
fn nested_stacks_are_given_their_parameters_and_asked_only_for_outputs_they_have() {
    let stacks = resources("AWS::CloudFormation::Stack");
    assert_eq!(stacks.len(), nested_files().len(), "every template in infra/ is a nested stack");
    let mut outputs = BTreeSet::new();
    for (name, stack) in stacks {
        let file = stack["Properties"]["TemplateURL"].as_str().unwrap().strip_prefix("infra/").unwrap();
        let nested = &templates()["nested"][file];
        let (given, declared) = (object(&stack["Properties"]["Parameters"]), object(&nested["Parameters"]));
        assert_eq!(names(given), names(declared), "{name}");
        outputs.extend(object(&nested["Outputs"]).keys().map(|output| format!("{name}.Outputs.{output}")));
    }
    let mut asked = BTreeSet::new();
    visit(&templates()["root"], &mut |object| {
        if let Some(Value::Array(path)) = object.get("Fn::GetAtt") {
            asked.insert(path.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>().join("."));
        }
        if let Some(Value::String(text)) = object.get("Fn::Sub") {
            asked.extend(text.split("${").skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()));
        }
    });
    asked.retain(|name| name.contains(".Outputs."));
    assert!(!asked.is_empty() && asked.is_subset(&outputs), "{:?}", asked.difference(&outputs));
}

/// `infra/environment`, with a `sam` that knows the template's outputs and nothing else.
#[test]
fn the_environment_that_a_stack_is_worked_on_with_comes_from_its_outputs_and_is_whole() {
    let outputs = object(&templates()["root"]["Outputs"]);
    let listed: Vec<Value> =
        outputs.keys().map(|name| json!({"OutputKey": name, "OutputValue": format!("the {name}")})).collect();
    let folder = tempfile::tempdir().unwrap();
    let script = format!("#!/bin/sh\ncat <<'END'\n{}\nEND\n", json!(listed));
    let path = folder.path().join("sam");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let text = printed(Command::new(root().join("infra/environment")).arg("penstock-dev").env("PATH", search));
    let given: BTreeSet<&str> =
        text.lines().map(|line| line.strip_prefix("export ").unwrap().split('=').next().unwrap()).collect();
    let required: BTreeSet<&str> =
        VARIABLES.iter().filter(|variable| variable.required).map(|variable| variable.name).collect();
    assert_eq!(given, required);
    assert!(text.contains("export PENSTOCK_JOB_TABLE='the JobTable'\n"), "{text}");
}
