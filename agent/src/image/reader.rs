//! Reading what may be compressed: what the first bytes say counts, not the media type or the
//! file's name, which are wrong often enough.

use std::io::{self, BufReader, Read};

/// The bytes of `reader`, decompressed where they are gzip or zstd.
pub fn decompressed<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(1 << 17, reader);
    let mut magic = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let whole = io::Cursor::new(magic.clone()).chain(reader);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// At most `limit` bytes, for documents that are kept in memory.
pub fn read_document(reader: impl Read, what: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    reader.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!(
            "{what} is larger than {limit} bytes"
        )));
    }
    Ok(content)
}
