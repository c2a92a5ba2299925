//! Holds: random claims and ends against a model, each repeated as after a lost reply; and many hands at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use penstock_policy::classes::Class;
use penstock_policy::gcra::Limit;
use penstock_policy::id::{PoolId, TenantId};
use penstock_policy::time::Timestamp;
use penstock_service::ports::{
    BucketKey, Held, HoldClaim, HoldEntry, HoldKey, HoldName, Holding, Take, TakeOutcome, TakePart,
};

use crate::subject::{BASE_MS, Chance, Subject};

const NOW: Timestamp = Timestamp::from_millis(BASE_MS);

/// Hands at once.
const HANDS: usize = 64;

fn tenant(number: u64) -> TenantId {
    TenantId::new(&format!("h{number}")).unwrap()
}

fn key(kind: u64, number: u64) -> HoldKey {
    let tenant = tenant(number);
    match kind {
        0 => HoldKey::Concurrency { tenant },
        1 => HoldKey::Money { tenant, period: "2026-11".to_owned() },
        _ => HoldKey::Returns { tenant, pool: PoolId::new("p").unwrap(), class: Class::P1 },
    }
}

fn name(number: u64) -> HoldName {
    HoldName::new(&format!("n{number}")).unwrap()
}

/// Random commands, `count` sequences of them.
pub(crate) async fn check(subject: &Subject, count: u64) {
    futures_util::stream::iter(0..count)
        .for_each_concurrent(8, |number| async move {
            let mut chance = Chance(number ^ 0x0004_01d5);
            let key = key(number % 3, number);
            let (mut held, mut used_up) = (BTreeMap::<HoldName, HoldEntry>::new(), 0u64);
            for step in 0..12 {
                let total =
                    |held: &BTreeMap<HoldName, HoldEntry>| used_up + held.values().map(|e| e.units).sum::<u64>();
                let (name, repeated) = (name(chance.below(4)), 1 + chance.below(2));
                let place = format!("sequence {number}, step {step}");
                match chance.below(5) {
                    0..=2 => {
                        let claim = HoldClaim {
                            key: key.clone(),
                            name: name.clone(),
                            units: chance.below(8),
                            most: 12 + chance.below(4),
                            until: NOW.after(Duration::from_millis(chance.below(1000))),
                            note: format!("n {step}"),
                        };
                        let room = held.contains_key(&name) || total(&held) + claim.units <= claim.most;
                        if room {
                            let HoldClaim { units, until, note, .. } = claim.clone();
                            held.entry(name.clone()).or_insert(HoldEntry { name, units, until, note });
                        }
                        for _ in 0..repeated {
                            match subject.limits.hold(&claim, NOW).await.unwrap() {
                                Held::Yes => assert!(room, "{place}"),
                                Held::Full(holding) => {
                                    assert!(!room, "{place}");
                                    let entries = held.values().cloned().collect();
                                    assert_eq!(holding, Holding { total: total(&held), entries }, "{place}");
                                }
                            }
                        }
                    }
                    3 => {
                        let used = chance.below(10);
                        for time in 0..repeated {
                            let ended = subject.limits.unhold(&key, &name, used, NOW).await.unwrap();
                            let expected = if time == 0 { held.remove(&name) } else { None };
                            used_up += expected.as_ref().map_or(0, |_| used);
                            assert_eq!(ended, expected, "{place}");
                        }
                    }
                    _ => {
                        let entries = held.values().cloned().collect();
                        let holding = subject.limits.holding(&key).await.unwrap();
                        assert_eq!(holding, Holding { total: total(&held), entries }, "{place}");
                    }
                }
            }
        })
        .await;
}

/// 64 hands that all want more than there is: never more is granted, and what is given back can be had again.
pub(crate) async fn check_many_hands(subject: &Subject, round: u64) {
    const MOST: u64 = 20;
    let key = key(0, 1_000_000 + round);
    let claim = |hand: usize| HoldClaim {
        key: key.clone(),
        name: HoldName::new(&format!("hand{hand}")).unwrap(),
        units: 1,
        most: MOST,
        until: NOW,
        note: String::new(),
    };
    for _ in 0..2 {
        let asked = (0..HANDS).map(|hand| {
            let claim = claim(hand);
            async move { (hand, subject.limits.hold(&claim, NOW).await.unwrap() == Held::Yes) }
        });
        let granted: Vec<usize> = futures_util::future::join_all(asked)
            .await
            .into_iter()
            .filter_map(|(hand, yes)| yes.then_some(hand))
            .collect();
        assert_eq!(granted.len() as u64, MOST);
        // Two end each hold: one of them has it.
        let ended = granted.iter().flat_map(|hand| [claim(*hand), claim(*hand)]).map(|claim| async move {
            subject.limits.unhold(&claim.key, &claim.name, 0, NOW).await.unwrap().is_some()
        });
        let ended = futures_util::future::join_all(ended).await.into_iter().filter(|ended| *ended).count() as u64;
        assert_eq!(ended, MOST);
        assert_eq!(subject.limits.holding(&key).await.unwrap(), Holding::default());
    }
    // A bucket of three parts under the same rush: exactly its burst.
    let part = |per_minute| TakePart { limit: Limit::per_minute(per_minute).unwrap(), units: 1 };
    let take = Take {
        key: BucketKey::Tenant { tenant: tenant(1_000_000 + round), shard: 0 },
        parts: vec![part(600), part(MOST), part(700)],
    };
    let mut chance = Chance(round ^ 0x7a4e);
    let takes = (0..HANDS).map(|_| chance.nonce()).collect::<Vec<_>>().into_iter().map(|nonce| {
        let take = take.clone();
        async move {
            // The idle edge may be met too often at once, which is said and tried again, as callers do.
            loop {
                match subject.limits.take(&take, nonce, NOW).await {
                    Ok(outcome) => return matches!(outcome, TakeOutcome::Granted { .. }),
                    Err(error) => assert!(error.is_passing(), "{error}"),
                }
            }
        }
    });
    let granted = futures_util::future::join_all(takes).await.into_iter().filter(|granted| *granted).count() as u64;
    assert_eq!(granted, MOST);
}
