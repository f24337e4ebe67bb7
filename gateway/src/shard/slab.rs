//! Where a shard keeps its connections: a vector of places, each with the number of its tenant.
//!
//! - A key is an index and a generation. The generation rises with every tenant, so a key that outlived its connection (an event of the
//!   reactor, a command of the control plane, a timer) misses; it never reaches the next one.
//! - Places are used again, the last vacated first: what is hot stays hot.
//! - Nothing shrinks: after a storm the places stay, empty.

/// Names a tenant for as long as it lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlabKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// The places.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    /// Of the tenant; of the last one where there is none. Never 0: keys of generation 0 are free for other uses.
    generation: u32,
    tenant: Option<T>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), vacant: Vec::new() }
    }

    /// Takes a tenant in; `make` is told its key.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(SlabKey) -> T) -> SlabKey {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, tenant: None });
            u32::try_from(self.places.len() - 1).expect("a process has far fewer than 2^32 files")
        });
        let place = &mut self.places[index as usize];
        // A generation comes back after 2^32 tenants of one place: no event or command is that old.
        place.generation = place.generation.wrapping_add(1).max(1);
        let key = SlabKey { index, generation: place.generation };
        place.tenant = Some(make(key));
        key
    }

    /// The tenant that `key` names, if it still lives there.
    pub(super) fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation { place.tenant.as_mut() } else { None }
    }

    /// The tenant of a place, whoever it is, and its key: for those who are told when a tenant leaves, as rooms are.
    pub(super) fn at_mut(&mut self, index: u32) -> Option<(SlabKey, &mut T)> {
        let place = self.places.get_mut(index as usize)?;
        let key = SlabKey { index, generation: place.generation };
        place.tenant.as_mut().map(|tenant| (key, tenant))
    }

    /// Lets a tenant go.
    pub(super) fn remove(&mut self, key: SlabKey) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let tenant = place.tenant.take()?;
        self.vacant.push(key.index);
        Some(tenant)
    }

    /// Places, with or without a tenant: every index is below.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.places.len()).expect("a process has far fewer than 2^32 files")
    }

    /// Tenants.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Slab, SlabKey};
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_key_of_an_earlier_tenant_misses() {
        let mut slab = Slab::new();
        let first = slab.insert_with(|_| 'a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert_with(|_| 'b');
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
    }

    #[test]
    fn no_key_has_generation_zero_even_when_generations_wrap() {
        let mut slab = Slab::new();
        let first = slab.insert_with(|_| ());
        slab.remove(first);
        slab.places[0].generation = u32::MAX;
        assert_eq!(slab.insert_with(|_| ()), SlabKey { index: 0, generation: 1 });
    }

    proptest! {
        /// Against a map from key to tenant.
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200)) {
            let mut slab = Slab::new();
            let mut map: HashMap<SlabKey, usize> = HashMap::new();
            let mut keys: Vec<SlabKey> = Vec::new();
            for (nth, (insert, which)) in steps.into_iter().enumerate() {
                if insert || keys.is_empty() {
                    let key = slab.insert_with(|_| nth);
                    prop_assert!(map.insert(key, nth).is_none());
                    keys.push(key);
                } else {
                    let key = *which.get(&keys);
                    prop_assert_eq!(slab.remove(key), map.remove(&key));
                }
                for key in &keys {
                    prop_assert_eq!(slab.get_mut(*key).copied(), map.get(key).copied());
                }
                prop_assert_eq!(slab.len(), map.len());
            }
        }
    }
}
