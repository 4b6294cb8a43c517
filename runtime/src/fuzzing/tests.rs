//! Replays the corpus: what was found once is not found again.

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        check(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", corpus.display());
}

#[test]
fn configurations_of_the_corpus_are_refused_or_can_be_planned() {
    replay("configuration", super::configuration);
}

#[test]
fn filters_of_the_corpus_decide_as_their_rules_say() {
    replay("seccomp", super::filter);
}
