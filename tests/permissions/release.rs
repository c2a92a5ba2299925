//! The check of a release, as CodeDeploy calls it, against the real function: it lets a version through that does its work,
//! and none that may not read keys.

use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use harness::deployment::{Deployment, deploy, deploy_with};
use harness::iam::Permission;
use harness::lambda::Function;
use harness::ministack::Ministack;
use harness::{given, root};
use serde_json::Value;

use crate::MODEL;

/// Lambda and CodeDeploy, as far as the check calls them.
struct Services {
    version: Arc<Function>,
    /// What CodeDeploy was told.
    told: Mutex<Vec<Value>>,
}

async fn serve(State(services): State<Arc<Services>>, headers: HeaderMap, uri: Uri, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    if headers.get("x-amz-target").is_some_and(|target| target.to_str().unwrap().ends_with("HookExecutionStatus")) {
        services.told.lock().unwrap().push(body);
        return "{}".into_response();
    }
    assert_eq!(uri.path(), "/2015-03-31/functions/front%3A7/invocations");
    services.version.answer(&body).await.unwrap().into_response()
}

/// Runs the check on a deployment's function; gives what CodeDeploy was told.
async fn checked(deployment: &Deployment) -> Value {
    let version = Arc::clone(&deployment.functions["front"]);
    let services = Arc::new(Services { version, told: Mutex::default() });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(serve).with_state(Arc::clone(&services));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut command = Command::new(std::path::Path::new(&given("PENSTOCK_SAM")).join("python"));
    let call = "import handler; handler.handler({'DeploymentId': 'd-1', 'LifecycleEventHookExecutionId': 'h-1'}, None)";
    command.current_dir(root().join("infra/preflight")).args(["-B", "-c", call]);
    command.env("AWS_ENDPOINT_URL", url).env("NEW_VERSION", "front:7").stderr(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    let told = services.told.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "CodeDeploy is told once");
    assert_eq!(told[0]["deploymentId"], "d-1");
    assert_eq!(told[0]["lifecycleEventHookExecutionId"], "h-1");
    told[0]["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_works_is_released_and_one_that_may_not_read_keys_is_not() {
    let ministack = Ministack::start().await;
    assert_eq!(checked(&deploy(&ministack, "good", &[MODEL]).await).await, "Succeeded");
    let gone = Permission {
        role: "FrontRole".to_owned(),
        sid: "ReadKeysAndTenants".to_owned(),
        of: "dynamodb:GetItem".to_owned(),
    };
    let ministack = Ministack::start().await;
    let lame = deploy_with(&ministack, "lame", &[MODEL], |role| role.without(&gone)).await;
    assert_eq!(checked(&lame).await, "Failed");
    assert!(!lame.take_denied().is_empty());
}
