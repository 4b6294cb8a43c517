//! The choice among a service's instances: which of them an answer has, and in which order.

use std::collections::HashMap;

/// Some of the numbers below `all`, at most so many, chosen and put in order at random.
///
/// It costs as much as there are chosen: Fisher and Yates's shuffle of all numbers, of which only the first places are
/// made, and only those numbers are kept that have left their own.
pub fn choose(all: usize, most: usize) -> Vec<usize> {
    let mut moved = HashMap::new();
    let places = random_numbers(all.min(most)).into_iter().enumerate();
    let chosen = places.map(|(place, random)| {
        let other = place + random as usize % (all - place);
        let here = moved.get(&place).copied().unwrap_or(place);
        moved.insert(other, here).unwrap_or(other)
    });
    chosen.collect()
}

/// Without random numbers the choice is always the same, and as right.
fn random_numbers(count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * size_of::<u32>()];
    if getrandom::fill(&mut bytes).is_err() {
        bytes.fill(0);
    }
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().copied().map(u32::from_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_chosen_once_at_most_and_as_often_as_any_other() {
        let mut counts = vec![0; 30];
        for _ in 0..3000 {
            let mut chosen = choose(30, 8);
            chosen.iter().for_each(|number| counts[*number] += 1);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 8);
        }
        // Eight hundred is expected; more than 200 beside it is less likely than one in a billion.
        let is_fair = |count: &i32| (600..1000).contains(count);
        assert!(counts.iter().all(is_fair), "{counts:?}");
    }

    #[test]
    fn every_order_comes_about_as_often() {
        for (all, most, orders) in [(3, 3, 6), (4, 2, 12)] {
            let mut counts = HashMap::new();
            for _ in 0..1000 * orders {
                *counts.entry(choose(all, most)).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), orders);
            // A thousand is expected; more than 200 beside it is less likely than one in a billion.
            let is_fair = |count: &i32| (800..1200).contains(count);
            assert!(counts.values().all(is_fair), "{counts:?}");
        }
    }

    #[test]
    fn of_few_all_are_chosen_and_of_none_none() {
        assert_eq!(choose(1, 8), [0]);
        assert!(choose(0, 8).is_empty());
    }

    #[test]
    fn a_choice_among_more_than_memory_holds_is_made_at_once() {
        assert_eq!(choose(usize::MAX, 8).len(), 8);
    }
}
