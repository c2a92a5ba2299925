//! The contract of shelves: documents replaced only by whoever read them last, walked through in the order of their names.

use std::collections::BTreeMap;

use penstock_policy::id::TenantId;
use penstock_policy::time::Timestamp;
use penstock_service::ports::{Order, Posted, ShelfId, Shelved, Stale};

use crate::subject::{BASE_MS, Chance, Subject};

/// Random placings and removals against a map, each placing repeated as after a lost reply; then walks of every size.
pub(crate) async fn check(subject: &Subject) {
    let (shelf, mut chance) = (&subject.shelf, Chance(23));
    let acme = ShelfId::of_tenant("files", &TenantId::new("acme").unwrap());
    let other = ShelfId::of_tenant("files", &TenantId::new("acme-2").unwrap());
    let expires = Timestamp::from_millis(BASE_MS + 86_400_000);
    assert_eq!(shelf.find(&acme, "f-0").await.unwrap(), None);
    assert_eq!(shelf.place(&acme, "f-0", "x", Some(1), None, chance.nonce()).await.unwrap(), Err(Stale));
    let mut model: BTreeMap<String, Posted> = BTreeMap::new();
    for turn in 0..300u64 {
        let name = format!("f-{}", chance.below(12));
        if chance.below(5) == 0 {
            shelf.take_away(&acme, &name).await.unwrap();
            model.remove(&name);
            continue;
        }
        let replaces = match chance.below(4) {
            0 => None,
            1 => Some(chance.below(3) + 1),
            _ => model.get(&name).map(|posted| posted.version),
        };
        let text = format!("text {turn}");
        let expected = match model.get(&name).map(|posted| posted.version) {
            found if found == replaces => Ok(found.unwrap_or(0) + 1),
            _ => Err(Stale),
        };
        let (nonce, until) = (chance.nonce(), (turn % 2 == 0).then_some(expires));
        for _ in 0..2 {
            assert_eq!(shelf.place(&acme, &name, &text, replaces, until, nonce).await.unwrap(), expected, "{turn}");
        }
        if let Ok(version) = expected {
            model.insert(name.clone(), Posted { text, version });
        }
        assert_eq!(shelf.find(&acme, &name).await.unwrap(), model.get(&name).cloned());
    }
    shelf.place(&other, "f-0", "another tenant's", None, None, chance.nonce()).await.unwrap().unwrap();
    let all: Vec<Shelved> = model.into_iter().map(|(name, document)| Shelved { name, document }).collect();
    for (order, most) in [(Order::Rising, 1), (Order::Rising, 5), (Order::Falling, 3), (Order::Falling, 100)] {
        let (mut walked, mut after) = (Vec::new(), None);
        loop {
            let some = shelf.walk(&acme, order, after.as_deref(), most).await.unwrap();
            let is_last = some.len() < most;
            after = some.last().map(|last| last.name.clone()).or(after);
            walked.extend(some);
            if is_last {
                break;
            }
        }
        if order == Order::Falling {
            walked.reverse();
        }
        assert_eq!(walked, all, "{order:?} by {most}");
    }
}
