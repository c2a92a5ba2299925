//! Things by small numbers that are used again: millions come and go, few are there at once.

/// The things.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds a thing and says its number.
    pub(super) fn add(&mut self, thing: T) -> u32 {
        if let Some(free) = self.free.pop() {
            self.entries[free as usize] = Some(thing);
            return free;
        }
        self.entries.push(Some(thing));
        u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
    }

    /// The thing of that number.
    #[must_use]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// See [`Slab::get`].
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    /// Takes it out; its number is used again.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.entries.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    /// The numbers that are in use.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0u32..).zip(&self.entries).filter(|(_, entry)| entry.is_some()).map(|(number, _)| number)
    }

    /// How many there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
