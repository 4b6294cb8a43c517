//! Mutations that leave JSON JSON: nearly every change of single bytes ends in the parser, and what is
//! behind it would hardly be reached.

use serde_json::{Map, Value, json};

/// A small generator of pseudo-random numbers (xorshift): libFuzzer gives a seed and wants the same
/// answer to it.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below.max(1)
    }
}

/// Changes one value of the document, or none if it isn't one: that is left to libFuzzer, and so is one
/// case in eight.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let mut dice = Dice(u64::from(seed) << 17 | 0x9e37_79b9);
    if dice.next(8) == 0 {
        return None;
    }
    let mut document: Value = serde_json::from_slice(data.get(..size)?).ok()?;
    for _ in 0..=dice.next(3) {
        change_somewhere(&mut document, &mut dice);
    }
    let bytes = serde_json::to_vec(&document).ok()?;
    if bytes.len() > max_size {
        return None;
    }
    data.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some(bytes.len())
}

fn change_somewhere(value: &mut Value, dice: &mut Dice) {
    let goes_down = dice.next(8) != 0;
    match value {
        Value::Object(map) if goes_down && !map.is_empty() => {
            let at = dice.next(map.len());
            match dice.next(12) {
                0 => drop(map.keys().nth(at).cloned().and_then(|key| map.remove(&key))),
                1 => copy_a_member(map, at, dice),
                _ => drop(
                    map.values_mut()
                        .nth(at)
                        .map(|below| change_somewhere(below, dice)),
                ),
            }
        }
        Value::Array(list) if goes_down && !list.is_empty() => {
            let at = dice.next(list.len());
            match dice.next(12) {
                0 => drop(list.remove(at)),
                1 => list.extend(list.get(at).cloned()),
                2 => list.truncate(at),
                _ => drop(list.get_mut(at).map(|below| change_somewhere(below, dice))),
            }
        }
        Value::Number(number) if dice.next(2) == 0 => {
            let near = [-1, 1, -1000, 1000, i64::MAX / 2][dice.next(5)];
            *value = json!(number.as_i64().unwrap_or(0).wrapping_add(near));
        }
        Value::String(text) if dice.next(2) == 0 => change_text(text, dice),
        other => *other = interesting(dice),
    }
}

/// Under another name of the same object, so that values meet fields that they weren't meant for.
fn copy_a_member(map: &mut Map<String, Value>, at: usize, dice: &mut Dice) {
    let to = dice.next(map.len());
    let value = map.values().nth(at).cloned();
    if let (Some(value), Some(place)) = (value, map.values_mut().nth(to)) {
        *place = value;
    }
}

fn change_text(text: &mut String, dice: &mut Dice) {
    const PARTS: [&str; 16] = [
        "\0", "/", "..", "=", ":", ",", "-", "0", "9", ".", " ", "\n", "é", "\"", "/proc", "r",
    ];
    let edges: Vec<_> = (0..=text.len())
        .filter(|at| text.is_char_boundary(*at))
        .collect();
    let at = edges[dice.next(edges.len())];
    match dice.next(4) {
        0 => text.truncate(at),
        1 => *text = text.split_off(at),
        2 => text.push_str(&text.clone()),
        _ => text.insert_str(at, PARTS[dice.next(PARTS.len())]),
    }
    text.truncate(
        (0..=4096)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0),
    );
}

fn interesting(dice: &mut Dice) -> Value {
    match dice.next(22) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!(0),
        4 => json!(-1),
        5 => json!(1),
        6 => json!(u64::MAX),
        7 => json!(i64::MIN),
        8 => json!(i64::MAX),
        9 => json!(u32::MAX),
        10 => json!(i32::MAX),
        11 => json!(4096),
        12 => json!(""),
        13 => json!("/"),
        14 => json!("a\0b"),
        15 => json!("../.."),
        16 => json!("/proc/self/fd"),
        17 => json!([]),
        18 => json!({}),
        19 => json!(0.5),
        20 => json!("0-3,7"),
        _ => json!("x".repeat(300)),
    }
}
