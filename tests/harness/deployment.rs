//! The project's own stack in the emulator, out of the templates as they are: tables, queues, bucket and roles as
//! CloudFormation makes them, the API's routes, and functions with the environment that the template gives them. Each
//! function, and the worker, reaches the emulator through the gate of its role (see [`crate::iam`]).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_aws::{Aws, Names, Timeouts};
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ApiKey;
use penstock_service::ports::{Clock, Control, Entropy, Tenant, TenantLimits};
use penstock_service::system::{OsEntropy, SystemClock};
use serde_json::Value;

use crate::iam::{Gate, Permission, Role};
use crate::lambda::{Function, Gateway, Route};
use crate::ministack::Ministack;
use crate::{built, given, root};

/// The worker's role in the template.
const WORKER: &str = "WorkerRole";

/// What a test needs of a deployment. When it is dropped, nobody may have been refused anything: a permission that is
/// missing fails the test whose request needs it.
pub struct Deployment {
    /// The ports, for looking behind the scenes; they pass no gate.
    pub aws: Arc<Aws>,
    /// A key of the only tenant.
    pub key: String,
    /// The environment of a worker.
    pub variables: BTreeMap<String, String>,
    /// The functions, by the binary that each is built from.
    pub functions: BTreeMap<String, Arc<Function>>,
    /// Where the API is.
    pub url: String,
    /// What `tests/template/deploy.py` says of the stack.
    pub stack: Value,
    gates: BTreeMap<String, Arc<Gate>>,
}

/// Makes a deployment called `stage` with the given pools' queues.
///
/// # Panics
/// If the emulator refuses.
pub async fn deploy(ministack: &Ministack, stage: &str, pools: &[&str]) -> Deployment {
    deploy_with(ministack, stage, pools, |role| role).await
}

/// The same with roles that are not quite the template's.
///
/// # Panics
/// If the emulator refuses.
pub async fn deploy_with(
    ministack: &Ministack,
    stage: &str,
    pools: &[&str],
    changed: impl Fn(Role) -> Role,
) -> Deployment {
    let endpoint = ministack.endpoint.as_str();
    let stack = stack(endpoint, stage, pools[0]);
    let output = |name: &str| stack["outputs"][name].as_str().unwrap_or_else(|| panic!("no output {name}")).to_owned();
    let names = Names {
        adm_table: output("AdmTable"),
        job_table: output("JobTable"),
        cache_table: output("CacheTable"),
        ctl_table: output("CtlTable"),
        payload_bucket: output("PayloadBucket"),
        queue_prefix: stage.to_owned(),
    };
    // What the operator does after `sam deploy`: pools beside the stack's own, a tenant, a key.
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let aws = Arc::new(Aws::connect(names.clone(), Timeouts::patient(), Some(endpoint), clock).await);
    for pool in &pools[1..] {
        aws.create_queues(&PoolId::new(pool).unwrap()).await.unwrap();
    }
    let key = tenant_with_key(&aws).await;

    // Those of programs of ours; AWS itself takes the others.
    let ours = stack["functions"].as_object().unwrap().values().map(|about| about["role"].as_str().unwrap());
    let ours: BTreeSet<&str> = ours.chain([WORKER]).collect();
    let mut gates = BTreeMap::new();
    for (name, policies) in stack["roles"].as_object().unwrap().iter().filter(|(name, _)| ours.contains(name.as_str()))
    {
        let role = changed(Role::read(name, policies.as_array().unwrap()));
        gates.insert(name.clone(), Gate::open(endpoint, role).await);
    }
    let worker = [
        ("PENSTOCK_STAGE", stage),
        ("PENSTOCK_ADM_TABLE", &names.adm_table),
        ("PENSTOCK_JOB_TABLE", &names.job_table),
        ("PENSTOCK_CACHE_TABLE", &names.cache_table),
        ("PENSTOCK_CTL_TABLE", &names.ctl_table),
        ("PENSTOCK_PAYLOAD_BUCKET", &names.payload_bucket),
    ];
    let worker = worker.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let functions: BTreeMap<String, Arc<Function>> = stack["functions"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(binary, about)| {
            let variables = about["environment"].as_object().unwrap().iter();
            let variables = variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
            let gate = &gates[about["role"].as_str().unwrap()];
            (binary.clone(), Function::new(built(binary), here(variables, gate)))
        })
        .collect();
    let url = gateway(stage, &stack, &functions).await.url;
    Deployment { aws, key, variables: here(worker, &gates[WORKER]), functions, url, stack, gates }
}

/// Has `tests/template/deploy.py` make the stack.
fn stack(endpoint: &str, stage: &str, pool: &str) -> Value {
    let mut command = Command::new(std::path::Path::new(&given("PENSTOCK_SAM")).join("python"));
    command.current_dir(root()).args(["tests/template/deploy.py", endpoint, &format!("penstock-{stage}")]);
    command.args([format!("Stage={stage}"), format!("DefaultPool={pool}")]);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    serde_json::from_str(&out).unwrap()
}

async fn tenant_with_key(aws: &Aws) -> String {
    let key = ApiKey::generate(|| OsEntropy.draw());
    let limit = Limit::new(1_000_000, Duration::from_secs(1), 1_000_000_000).unwrap();
    let tenant = TenantId::new("tenant").unwrap();
    aws.put_key(&key.record(tenant.clone())).await.unwrap();
    let limits = TenantLimits::rates(limit, limit);
    aws.put_tenant(&Tenant::new(tenant, Class::P0, limits, SystemClock.now())).await.unwrap();
    key.expose()
}

/// An environment with what only this machine needs: where AWS is, and times made for tests.
fn here(variables: BTreeMap<String, String>, gate: &Gate) -> BTreeMap<String, String> {
    let local = [
        ("PENSTOCK_AWS_ENDPOINT", gate.url.clone()),
        ("PENSTOCK_LEASE_MS", "2000".to_owned()),
        ("PENSTOCK_VISIBILITY_MS", "3000".to_owned()),
        ("PENSTOCK_RECORD_CACHE_MS", "1000".to_owned()),
        ("AWS_ACCESS_KEY_ID", given("AWS_ACCESS_KEY_ID")),
        ("AWS_SECRET_ACCESS_KEY", given("AWS_SECRET_ACCESS_KEY")),
        ("AWS_REGION", given("AWS_REGION")),
        ("RUST_LOG", "warn".to_owned()),
        ("PENSTOCK_LOG", "warn".to_owned()),
    ];
    let local = local.into_iter().map(|(name, value)| (name.to_owned(), value));
    variables.into_iter().chain(local).collect()
}

async fn gateway(stage: &str, stack: &Value, functions: &BTreeMap<String, Arc<Function>>) -> Gateway {
    let routes = stack["routes"].as_array().unwrap().iter().map(|route| {
        let text = |at: usize| route[at].as_str().unwrap();
        Route { method: text(0).to_owned(), path: text(1).to_owned(), function: Arc::clone(&functions[text(2)]) }
    });
    let unknown = &stack["unknown_url"];
    let status = unknown[0].as_str().unwrap().parse().unwrap();
    Gateway::start(stage, routes.collect(), (status, unknown[1].as_str().unwrap().to_owned())).await
}

impl Deployment {
    /// The command that starts a worker of `pool` on a model among the fixtures.
    #[must_use]
    pub fn worker(&self, pool: &str, model: &str, name: &str) -> Command {
        let mut command = Command::new(built("gpu-worker"));
        command.env_clear().envs(&self.variables);
        command.args(["--pool", pool, "--slots", "8", "--id", name, "--ort", &given("PENSTOCK_ORT")]);
        command.arg("--model").arg(root().join("gpu-worker/fixtures").join(model));
        command
    }

    /// Waits until a worker has signed on.
    ///
    /// # Panics
    /// If it does not within 30 s.
    pub async fn signed_on(&self, pool: &str, name: &str) {
        let pool = PoolId::new(pool).unwrap();
        let begun = Instant::now();
        loop {
            let workers = self.aws.workers(&pool, Timestamp::EPOCH).await.unwrap();
            if workers.iter().any(|worker| worker.id.as_str() == name) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "worker {name} does not sign on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where a role's gate is: the endpoint of whoever runs under it.
    ///
    /// # Panics
    /// If the template has no such role.
    #[must_use]
    pub fn endpoint_of(&self, role: &str) -> &str {
        &self.gates[role].url
    }

    /// Everything that the roles may do.
    #[must_use]
    pub fn permissions(&self) -> BTreeSet<Permission> {
        self.gates.values().flat_map(|gate| gate.role().permissions()).collect()
    }

    /// What of it was needed so far.
    #[must_use]
    pub fn used(&self) -> BTreeSet<Permission> {
        self.gates.values().flat_map(|gate| gate.used()).collect()
    }

    /// How often each action was asked for under a role so far.
    ///
    /// # Panics
    /// If no program has such a role.
    #[must_use]
    pub fn calls(&self, role: &str) -> BTreeMap<String, u64> {
        self.gates[role].calls()
    }

    /// What was refused so far, a line each; it is forgiven with this.
    #[must_use]
    pub fn take_denied(&self) -> Vec<String> {
        self.gates.values().flat_map(|gate| gate.take_denied()).collect()
    }
}

#[expect(clippy::print_stderr, reason = "a test that fails anyway says why")]
impl Drop for Deployment {
    fn drop(&mut self) {
        let denied = self.take_denied();
        let what = format!("the template does not permit what was needed:\n{}", denied.join("\n"));
        if std::thread::panicking() && !denied.is_empty() {
            eprintln!("{what}");
        } else {
            assert!(denied.is_empty(), "{what}");
        }
    }
}
