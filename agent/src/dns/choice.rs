//! The choice among a service's instances: which of them an answer has, and in which order.

use std::collections::HashMap;
use std::hash::Hash;

/// Some of these, at most so many of each kind, chosen and put in order at random.
pub fn choose<T, K: Eq + Hash>(mut all: Vec<T>, most: usize, kind: impl Fn(&T) -> K) -> Vec<T> {
    shuffle(&mut all);
    let mut counts: HashMap<K, usize> = HashMap::new();
    all.retain(|one| {
        let count = counts.entry(kind(one)).or_default();
        *count += 1;
        *count <= most
    });
    all
}

/// Fisher and Yates's shuffle.
fn shuffle<T>(all: &mut [T]) {
    let mut bytes = vec![0; all.len() * size_of::<u32>()];
    // Without random numbers the choice is always the same, and as right.
    if getrandom::fill(&mut bytes).is_err() {
        return;
    }
    let (numbers, _) = bytes.as_chunks();
    for (last, number) in (0..all.len()).rev().zip(numbers) {
        let other = u32::from_ne_bytes(*number) as usize % (last + 1);
        all.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_share() {
        let all: Vec<u32> = (0..30).collect();
        let chosen = choose(all, 8, |number| number % 3);
        assert_eq!(chosen.len(), 24);
        for kind in 0..3 {
            assert_eq!(chosen.iter().filter(|n| **n % 3 == kind).count(), 8);
        }
    }

    #[test]
    fn every_order_comes_about_as_often() {
        let mut counts = HashMap::new();
        for _ in 0..6000 {
            let order = choose(vec!['a', 'b', 'c'], 3, |_| ());
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // A thousand is expected; more than 200 beside it is less likely than one in a billion.
        let is_fair = |count: &i32| (800..1200).contains(count);
        assert!(counts.values().all(is_fair), "{counts:?}");
    }

    #[test]
    fn of_few_all_are_chosen_and_of_none_none() {
        assert_eq!(choose(vec![7], 8, |_| ()), [7]);
        assert!(choose(Vec::<u8>::new(), 8, |_| ()).is_empty());
    }
}
