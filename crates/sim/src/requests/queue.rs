//! The queue of a class: jobs of several tenants, served fairly.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng, 1996): a job's tag is the later of what is being served and the end of
//! its tenant's last job, in tokens; the least tag is served first.

use std::collections::BTreeMap;

/// A place in the queue, to be given back to a job that returns to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    tag: u64,
    serial: u64,
}

/// The queue of a class.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<Place, u32>,
    served: u64,
    serial: u64,
    /// By tenant, the tag its next job has at least.
    next: BTreeMap<u16, u64>,
}

impl Queue {
    /// Jobs that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a job of so many tokens and says its place.
    pub fn push(&mut self, job: u32, tenant: u16, tokens: u64) -> Place {
        let next = self.next.entry(tenant).or_default();
        let tag = self.served.max(*next);
        *next = tag + tokens;
        self.serial += 1;
        let place = Place { tag, serial: self.serial };
        self.waiting.insert(place, job);
        place
    }

    /// A job comes back to its place.
    pub fn put_back(&mut self, job: u32, place: Place) {
        self.waiting.insert(place, job);
    }

    /// Takes the job whose turn it is.
    pub fn pop(&mut self) -> Option<u32> {
        let (place, job) = self.waiting.pop_first()?;
        self.served = self.served.max(place.tag);
        Some(job)
    }

    /// The job whose turn it is.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.waiting.first_key_value().map(|(_, job)| *job)
    }

    /// Takes a job out; `false` if it does not wait.
    pub fn remove(&mut self, place: Place) -> bool {
        self.waiting.remove(&place).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_with_one_job_does_not_stand_behind_all_of_anothers() {
        let mut queue = Queue::default();
        for job in 0..10 {
            queue.push(job, 0, 100);
        }
        queue.push(99, 1, 100);
        assert_eq!([queue.pop(), queue.pop()], [Some(0), Some(99)]);
    }

    #[test]
    fn a_job_that_comes_back_is_next() {
        let mut queue = Queue::default();
        let first = queue.push(1, 0, 10);
        queue.push(2, 0, 10);
        assert_eq!(queue.pop(), Some(1));
        queue.put_back(1, first);
        assert_eq!((queue.pop(), queue.len()), (Some(1), 1));
    }
}
