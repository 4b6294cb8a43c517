//! Hashes that are the same for every build and every process, which the standard library's do not promise.
#![forbid(unsafe_code)]

const BEGINNING: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, of 64 bits.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(BEGINNING, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A hash in steps of eight bytes, for what is long: it takes an eighth of the time.
///
/// A product alone would not do: what is high in a word would stay high in the hash, where two changes can cancel one
/// another.
pub(crate) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    /// 2 to the power of 64, divided by the golden ratio: odd, and without a pattern.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, value: u64| {
        let product = (hash ^ value).wrapping_mul(FACTOR);
        product ^ (product >> 32)
    };
    parts.into_iter().fold(BEGINNING, |hash, part| {
        let (words, rest) = part.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let rest = rest.iter().map(|byte| u64::from(*byte));
        words.chain(rest).fold(hash, mix)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_fnv() {
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn each_byte_of_a_part_counts() {
        let whole = *b"what is in the tables";
        let hash = of_parts([&whole[..]]);
        for at in 0..whole.len() {
            let mut other = whole;
            other[at] ^= 1;
            assert_ne!(of_parts([&other[..]]), hash, "the byte {at}");
        }
        assert_ne!(of_parts([&whole[..20]]), hash);
    }

    /// As when an address changes that two rules have.
    #[test]
    fn two_changes_do_not_cancel_one_another() {
        let places = (0..24).flat_map(|one| (one + 1..24).map(move |other| (one, other)));
        for (one, other) in places {
            let hashes = (0..=u8::MAX).map(|value| {
                let mut whole = [0x2a; 24];
                (whole[one], whole[other]) = (value, value);
                of_parts([&whole[..]])
            });
            let distinct: BTreeSet<u64> = hashes.collect();
            assert_eq!(distinct.len(), 256, "the bytes {one} and {other}");
        }
    }
}
