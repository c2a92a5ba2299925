//! Blobs, markers and control records.

use std::time::Duration;

use bytes::Bytes;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{KeyId, PoolId, TenantId};
use penstock_service::ports::{BlobKey, Blobs, Control, KeyRecord, Markers, Pool, Tenant, TenantLimits, WorkerRecord};

use crate::harness::*;

#[tokio::test]
async fn a_blob_reads_back_and_one_that_is_not_there_is_none() {
    let world = World::new().await;
    let key = BlobKey::new("req/01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
    assert_eq!(world.aws.get(&key).await.unwrap(), None);
    world.aws.remove(&key).await.unwrap();
    let bytes = Bytes::from((0..3_000_000u32).map(|i| i.to_le_bytes()[1]).collect::<Vec<u8>>());
    world.aws.put(&key, bytes.clone()).await.unwrap();
    world.aws.put(&key, bytes.clone()).await.unwrap();
    assert_eq!(world.aws.get(&key).await.unwrap(), Some(bytes));
    world.aws.remove(&key).await.unwrap();
    assert_eq!(world.aws.get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn control_records_read_back_exactly() {
    let world = World::new().await;
    let limits = TenantLimits::rates(
        Limit::per_minute(7).unwrap(),
        Limit::new(1_000_003, Duration::from_secs(3), 12_345).unwrap(),
    );
    let tenant = Tenant::new(TenantId::new("acme.eu:1").unwrap(), Class::P2, limits, NOW);
    assert_eq!(world.aws.tenant(&tenant.id).await.unwrap(), None);
    world.aws.put_tenant(&tenant).await.unwrap();
    assert_eq!(world.aws.tenant(&tenant.id).await.unwrap(), Some(tenant.clone()));

    let mut key = KeyRecord {
        id: KeyId::from_bits(5),
        tenant: tenant.id,
        secret_sha256: [7; 32],
        revoked: None,
        label: "ci".to_owned(),
        created: NOW,
        used: None,
    };
    assert_eq!(world.aws.key(&key.id).await.unwrap(), None);
    world.aws.put_key(&key).await.unwrap();
    assert_eq!(world.aws.key(&key.id).await.unwrap(), Some(key.clone()));
    key.revoked = Some(NOW);
    world.aws.put_key(&key).await.unwrap();
    assert_eq!(world.aws.key(&key.id).await.unwrap(), Some(key));
}

#[tokio::test]
async fn pools_and_workers_are_listed_in_order_and_silent_workers_are_not() {
    let world = World::new().await;
    let of = |id: &str, tokens_per_byte: f64| Pool {
        tokens_per_byte,
        ..Pool::new(PoolId::new(id).unwrap(), &format!("model of {id}"), 4096, NOW)
    };
    let pools = [of("Alpha", 0.1 + 0.2), of("beta", 1e-7), of("beta-2", 3.0)];
    for pool in pools.iter().rev() {
        world.aws.put_pool(pool).await.unwrap();
    }
    assert_eq!(world.aws.pools().await.unwrap(), pools);

    let reported = |id: &str, ago: u64| WorkerRecord {
        id: worker(id),
        pool: pools[1].id.clone(),
        digest: "sha256:ab".to_owned(),
        slots: 8,
        tokens_per_second: 1234.5,
        seen: NOW.before(Duration::from_secs(ago)),
        draining: ago == 1,
    };
    let workers = [reported("w-1", 1), reported("w-2", 30), reported("w-3", 10)];
    for worker in &workers {
        world.aws.put_worker(worker).await.unwrap();
    }
    let live = world.aws.workers(&pools[1].id, NOW.before(Duration::from_secs(10))).await.unwrap();
    assert_eq!(live, [workers[0].clone(), workers[2].clone()]);
    assert_eq!(world.aws.workers(&pools[0].id, NOW).await.unwrap(), []);
    world.aws.remove_worker(&pools[1].id, &worker("w-1")).await.unwrap();
    world.aws.remove_worker(&pools[1].id, &worker("w-1")).await.unwrap();
    assert_eq!(world.aws.workers(&pools[1].id, NOW.before(Duration::from_secs(10))).await.unwrap().len(), 1);
}

#[tokio::test]
async fn clearing_a_marker_that_is_not_there_is_no_error() {
    let world = World::new().await;
    assert_eq!(world.aws.find(&marker_key()).await.unwrap(), None);
    world.aws.clear(&marker_key(), fresh_job()).await.unwrap();
}
