//! [`billfish_state::Cache`].

use super::*;
use std::collections::BTreeMap;

pub(crate) async fn a_value_is_there_until_its_end<S: Store>() {
    let cache = S::fresh().await.cache;
    let binary = Bytes::from_static(&[0, 255, 13, 10, 128]);
    cache.put("k", binary.clone(), at(0), at(MINUTE)).await.unwrap();
    cache.put("empty", Bytes::new(), at(0), at(MINUTE)).await.unwrap();
    assert_eq!(cache.get("k", at(MINUTE - 1)).await.unwrap(), Some(binary));
    assert_eq!(cache.get("empty", at(MINUTE - 1)).await.unwrap(), Some(Bytes::new()), "an empty value is a value");
    assert_eq!(cache.get("k", at(MINUTE)).await.unwrap(), None);
    assert_eq!(cache.get("unknown", at(0)).await.unwrap(), None);
}

pub(crate) async fn putting_again_replaces_and_removing_forgets<S: Store>() {
    let cache = S::fresh().await.cache;
    cache.put("k", body("old"), at(0), at(HOUR)).await.unwrap();
    cache.put("k", body("new"), at(0), at(MINUTE)).await.unwrap();
    assert_eq!(cache.get("k", at(1)).await.unwrap(), Some(body("new")));
    assert_eq!(cache.get("k", at(MINUTE)).await.unwrap(), None, "the end is the new one's too");
    cache.put("k", body("newest"), at(0), at(HOUR)).await.unwrap();
    cache.remove("k").await.unwrap();
    cache.remove("k").await.expect("again is no error");
    assert_eq!(cache.get("k", at(1)).await.unwrap(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u64),
    Remove(u8),
    Pass(u64),
}

pub(crate) fn histories_end_as_in_the_model<S: Store>() {
    let step = prop_oneof![
        3 => (0u8..4, any::<u8>(), 0..20 * SECOND).prop_map(|(key, value, life)| Step::Put(key, value, life)),
        1 => (0u8..4).prop_map(Step::Remove),
        2 => (0..8 * SECOND).prop_map(Step::Pass),
    ];
    histories::<S, _>(step, async |state, steps| {
        let mut now = at(0);
        let mut model: BTreeMap<u8, (Bytes, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(key, value, life) => {
                    let value = Bytes::from(vec![value; usize::from(value)]);
                    state.cache.put(&key.to_string(), value.clone(), now, now + life).await.unwrap();
                    model.insert(key, (value, now + life));
                }
                Step::Remove(key) => {
                    state.cache.remove(&key.to_string()).await.unwrap();
                    model.remove(&key);
                }
                Step::Pass(ms) => now += ms,
            }
            for key in 0..4u8 {
                let expected = model.get(&key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone());
                prop_assert_eq!(state.cache.get(&key.to_string(), now).await.unwrap(), expected);
            }
        }
        Ok(())
    });
}
