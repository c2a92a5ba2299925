//! The contract of control records and blobs, and of everything under many hands at once.

use std::time::Duration;

use bytes::Bytes;
use penstock_policy::classes::Class;
use penstock_policy::cost::Price;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{KeyId, PoolId, TenantId, WorkerId};
use penstock_policy::tenant::Retention;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    BlobKey, BoardKey, BucketKey, Claim, Claimed, Counts, Fallback, JobSpec, KeyRecord, Pool, Posted, Stale, Take,
    TakeOutcome, TakePart, TallyKey, Tenant, TenantLimits, WorkerRecord,
};
use penstock_service::stored::story::Admitted;

use crate::subject::{BASE_MS, Chance, POOL, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

/// Whatever is written reads back; what was never written is not there.
pub(crate) async fn check(subject: &Subject) {
    let control = &subject.control;
    let tenant = TenantId::new("acme").unwrap();
    let key = KeyRecord {
        id: KeyId::new("k1").unwrap(),
        tenant: tenant.clone(),
        secret_sha256: std::array::from_fn(|i| u8::try_from(i).unwrap()),
        revoked: None,
        label: "laptop".to_owned(),
        created: NOW,
        used: None,
    };
    assert_eq!(control.key(&key.id).await.unwrap(), None);
    for key in [key.clone(), KeyRecord { revoked: Some(NOW), ..key.clone() }] {
        control.put_key(&key).await.unwrap();
        assert_eq!(control.key(&key.id).await.unwrap(), Some(key));
    }
    check_keys(subject, &key).await;
    let limits = TenantLimits {
        concurrency: Some(3),
        ..TenantLimits::rates(Limit::per_minute(7).unwrap(), Limit::new(3, Duration::from_secs(11), 1_000_000).unwrap())
    };
    let record = Tenant { keep_orphans: true, ..Tenant::new(tenant.clone(), Class::P2, limits, NOW) };
    assert_eq!(control.tenant(&tenant).await.unwrap(), None);
    control.put_tenant(&record).await.unwrap();
    assert_eq!(control.tenant(&tenant).await.unwrap(), Some(record.clone()));
    let other = Tenant { id: TenantId::new("abc").unwrap(), ..record.clone() };
    control.put_tenant(&other).await.unwrap();
    control.put_tenant(&other).await.unwrap();
    // A deployment may have a tenant of its own from the beginning.
    let listed = async || {
        let all = control.tenants().await.unwrap().into_iter();
        all.filter(|tenant| [&record.id, &other.id].contains(&&tenant.id)).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [other.clone(), record.clone()]);
    for _ in 0..2 {
        control.remove_tenant(&other.id).await.unwrap();
        assert_eq!(listed().await, std::slice::from_ref(&record));
    }
    check_pools_and_workers(subject).await;
    check_blobs(subject).await;
    check_board(subject).await;
    check_tally(subject).await;
}

/// A tenant's keys are listed, another's are not; a use is noted without touching the rest, and never makes a key.
async fn check_keys(subject: &Subject, first: &KeyRecord) {
    let control = &subject.control;
    let revoked = KeyRecord { revoked: Some(NOW), used: Some(NOW), ..first.clone() };
    let second = KeyRecord { id: KeyId::new("k0").unwrap(), label: "ci".to_owned(), ..first.clone() };
    let foreign = KeyRecord { id: KeyId::new("k2").unwrap(), tenant: TenantId::new("acm").unwrap(), ..first.clone() };
    control.put_key(&second).await.unwrap();
    control.put_key(&foreign).await.unwrap();
    control.touch_key(&first.id, NOW).await.unwrap();
    assert_eq!(control.keys(&first.tenant).await.unwrap(), [second.clone(), revoked.clone()]);
    for _ in 0..2 {
        control.remove_key(&second).await.unwrap();
        control.touch_key(&second.id, NOW).await.unwrap();
        assert_eq!(control.key(&second.id).await.unwrap(), None);
        assert_eq!(control.keys(&first.tenant).await.unwrap(), std::slice::from_ref(&revoked));
    }
    assert_eq!(control.keys(&foreign.tenant).await.unwrap(), [foreign]);
}

async fn check_pools_and_workers(subject: &Subject) {
    let control = &subject.control;
    let pools: Vec<Pool> = ["b", "a"]
        .map(|name| Pool {
            tokens_per_byte: 0.27,
            fallbacks: vec![Fallback::Upstream("cloud".to_owned())],
            ..Pool::new(PoolId::new(name).unwrap(), &format!("model-{name}"), 512, NOW)
        })
        .to_vec();
    for pool in &pools {
        control.put_pool(pool).await.unwrap();
        control.put_pool(pool).await.unwrap();
    }
    assert_eq!(control.pools().await.unwrap(), [pools[1].clone(), pools[0].clone()]);
    let worker = |name: &str, seen: i64| WorkerRecord {
        id: WorkerId::new(name).unwrap(),
        pool: PoolId::new("a").unwrap(),
        digest: "d".to_owned(),
        slots: 8,
        tokens_per_second: 123.5,
        seen: Timestamp::from_millis(BASE_MS + seen),
        draining: seen > 1,
    };
    let workers = [worker("w1", 1), worker("w2", 2), worker("w3", 3)];
    for worker in &workers {
        control.put_worker(worker).await.unwrap();
    }
    control.remove_worker(&workers[2].pool, &workers[2].id).await.unwrap();
    control.remove_worker(&workers[2].pool, &workers[2].id).await.unwrap();
    assert_eq!(control.workers(&workers[0].pool, workers[1].seen).await.unwrap(), [workers[1].clone()]);
    assert_eq!(control.workers(&PoolId::new("b").unwrap(), Timestamp::EPOCH).await.unwrap(), []);
}

async fn check_blobs(subject: &Subject) {
    let key = BlobKey::new("req/some.blob-1").unwrap();
    assert_eq!(subject.blobs.get(&key).await.unwrap(), None);
    let bytes = Bytes::from((0..3_000_000u32).map(|i| i.to_le_bytes()[0]).collect::<Vec<u8>>());
    for _ in 0..2 {
        subject.blobs.put(&key, bytes.clone()).await.unwrap();
        assert_eq!(subject.blobs.get(&key).await.unwrap(), Some(bytes.clone()));
    }
    for _ in 0..2 {
        subject.blobs.remove(&key).await.unwrap();
        assert_eq!(subject.blobs.get(&key).await.unwrap(), None);
    }
}

/// A document is replaced by whoever read it last; a posting whose reply was lost is made once.
async fn check_board(subject: &Subject) {
    let (board, mut chance) = (&subject.board, Chance(11));
    let (key, other) = (BoardKey::new("rates", "a"), BoardKey::new("rates", "b"));
    assert_eq!(board.read(&key).await.unwrap(), None);
    assert_eq!(board.post(&key, "one", Some(1), chance.nonce()).await.unwrap(), Err(Stale));
    let first = chance.nonce();
    for _ in 0..2 {
        assert_eq!(board.post(&key, "one", None, first).await.unwrap(), Ok(1));
    }
    assert_eq!(board.post(&key, "again", None, chance.nonce()).await.unwrap(), Err(Stale));
    assert_eq!(board.post(&key, "two", Some(1), chance.nonce()).await.unwrap(), Ok(2));
    assert_eq!(board.post(&key, "late", Some(1), chance.nonce()).await.unwrap(), Err(Stale));
    assert_eq!(board.read(&key).await.unwrap(), Some(Posted { text: "two".to_owned(), version: 2 }));
    assert_eq!(board.read(&other).await.unwrap(), None);
}

/// What many have added reads back as one sum, and what one repeats after a lost reply counts once.
async fn check_tally(subject: &Subject) {
    let (tally, mut chance) = (&subject.tally, Chance(12));
    let [day, other, never] = ["2026-11-25", "2026-11-26", "2026-11-27"].map(|day| TallyKey::new("usage", "acme", day));
    let counts = |requests, tokens| Counts::from([("requests".to_owned(), requests), ("tokens".to_owned(), tokens)]);
    let expires = NOW.after(Duration::from_secs(86_400));
    for added in 1..=20 {
        let nonce = chance.nonce();
        for _ in 0..2 {
            tally.add(&day, &counts(1, added), expires, nonce).await.unwrap();
        }
    }
    tally.add(&other, &counts(5, -7), expires, chance.nonce()).await.unwrap();
    let sums = tally.sums(&[never.clone(), day.clone(), other.clone(), day.clone()]).await.unwrap();
    assert_eq!(sums, [Counts::new(), counts(20, 210), counts(5, -7), counts(20, 210)]);
    tally.clear(&day).await.unwrap();
    let many: Vec<TallyKey> = (0..120).map(|slot| TallyKey::new("health", "a", &slot.to_string())).collect();
    assert_eq!(tally.sums(&many).await.unwrap().len(), 120);
    assert_eq!(tally.sums(&[day, other]).await.unwrap(), [Counts::new(), counts(5, -7)]);
}

/// 64 hands take from one bucket, 16 claim one job: exact all the same.
pub(crate) async fn check_many_hands(subject: &Subject) {
    let take = Take {
        key: BucketKey::Tenant { tenant: TenantId::new("crowd").unwrap(), shard: 0 },
        parts: [1_000, 100].map(|n| TakePart { limit: Limit::per_minute(n).unwrap(), units: 1 }).to_vec(),
    };
    let mut chance = Chance(7);
    let hands: Vec<_> = (0..64)
        .map(|_| {
            let (limits, take) = (subject.limits.clone(), take.clone());
            let nonces: Vec<_> = (0..5).map(|_| chance.nonce()).collect();
            tokio::spawn(async move {
                let mut granted = 0;
                for nonce in nonces {
                    // A bucket under contention may ask to try again; it never grants too much.
                    match limits.take(&take, nonce, NOW).await {
                        Ok(TakeOutcome::Granted { .. }) => granted += 1,
                        Ok(TakeOutcome::Refused { .. }) => {}
                        Err(error) => assert!(error.is_passing(), "{error}"),
                    }
                }
                granted
            })
        })
        .collect();
    let mut granted = 0;
    for hand in hands {
        granted += hand.await.unwrap();
    }
    assert_eq!(granted, 100, "320 takes of 1 from a bucket of 100");
    one_winner(subject, &mut chance).await;
}

async fn one_winner(subject: &Subject, chance: &mut Chance) {
    let spec = JobSpec {
        id: chance.job(NOW),
        route: penstock_service::Route::Chat,
        tenant: TenantId::new("crowd").unwrap(),
        class: Class::P1,
        pool: PoolId::new(POOL).unwrap(),
        model: "task".to_owned(),
        created: NOW,
        due: NOW.after(Duration::from_secs(600)),
        streamed: false,
        estimated_tokens: 1,
        reservations: Vec::new(),
        price: Price::default(),
        retention: Retention::default(),
        admitted: Admitted::default(),
        keep: None,
    };
    let claims: Vec<_> = (0..16)
        .map(|n| {
            let claim = Claim {
                spec: spec.clone(),
                owner: WorkerId::new(&format!("w{n}")).unwrap(),
                digest: "d".to_owned(),
                lease_until: NOW.after(Duration::from_secs(45)),
            };
            let (jobs, nonce) = (subject.jobs.clone(), chance.nonce());
            tokio::spawn(async move { matches!(jobs.claim(&claim, nonce, NOW).await, Ok(Claimed::Yes(_))) })
        })
        .collect();
    let mut winners = 0;
    for claim in claims {
        winners += usize::from(claim.await.unwrap());
    }
    assert_eq!(winners, 1);
}
