//! A deployment in the emulator: tables, queues and bucket, a tenant with a key, and the environment that the
//! functions and workers are started with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_aws::{Aws, Names, Timeouts};
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_service::ApiKey;
use penstock_service::ports::{Clock, Control, Entropy, Tenant, TenantLimits};
use penstock_service::system::{OsEntropy, SystemClock};

use crate::given;
use crate::ministack::Ministack;

/// What a test needs of a deployment.
pub struct Deployment {
    /// The ports, for looking behind the scenes.
    pub aws: Arc<Aws>,
    /// A key of the only tenant.
    pub key: String,
    /// The environment of functions and workers.
    pub variables: BTreeMap<String, String>,
}

/// Makes a deployment called `stage` with the given pools' queues.
///
/// # Panics
/// If the emulator refuses.
pub async fn deploy(ministack: &Ministack, stage: &str, pools: &[&str]) -> Deployment {
    let names = Names {
        adm_table: format!("{stage}-adm"),
        job_table: format!("{stage}-job"),
        cache_table: format!("{stage}-cache"),
        ctl_table: format!("{stage}-ctl"),
        payload_bucket: format!("{stage}-payload"),
        queue_prefix: stage.to_owned(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let aws = Arc::new(Aws::connect(names.clone(), Timeouts::patient(), Some(&ministack.endpoint), clock).await);
    let pools: Vec<PoolId> = pools.iter().map(|pool| PoolId::new(pool).unwrap()).collect();
    aws.create_everything(&pools).await.unwrap();
    let key = ApiKey::generate(|| OsEntropy.draw());
    let limit = Limit::new(1_000_000, Duration::from_secs(1), 1_000_000_000).unwrap();
    let tenant = TenantId::new("tenant").unwrap();
    aws.put_key(&key.record(tenant.clone())).await.unwrap();
    let limits = TenantLimits::rates(limit, limit);
    aws.put_tenant(&Tenant::new(tenant, Class::P0, limits, SystemClock.now())).await.unwrap();
    let variables = [
        ("PENSTOCK_STAGE", stage),
        ("PENSTOCK_ADM_TABLE", &names.adm_table),
        ("PENSTOCK_JOB_TABLE", &names.job_table),
        ("PENSTOCK_CACHE_TABLE", &names.cache_table),
        ("PENSTOCK_CTL_TABLE", &names.ctl_table),
        ("PENSTOCK_PAYLOAD_BUCKET", &names.payload_bucket),
        ("PENSTOCK_MARKER_SECRET", "a secret of this deployment"),
        ("PENSTOCK_AWS_ENDPOINT", &ministack.endpoint),
        ("PENSTOCK_LEASE_MS", "2000"),
        ("PENSTOCK_VISIBILITY_MS", "3000"),
        ("PENSTOCK_RECORD_CACHE_MS", "1000"),
        ("AWS_ACCESS_KEY_ID", &given("AWS_ACCESS_KEY_ID")),
        ("AWS_SECRET_ACCESS_KEY", &given("AWS_SECRET_ACCESS_KEY")),
        ("AWS_REGION", &given("AWS_REGION")),
        ("RUST_LOG", "warn"),
        ("PENSTOCK_LOG", "warn"),
    ];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Deployment { aws, key: key.expose(), variables }
}
