//! Shares of something scarce: nobody holds more than so many at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places each address holds.
#[derive(Debug)]
pub struct Shares {
    /// The most of one address.
    most: usize,
    held: Held,
}

type Held = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of an address's places, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    held: Held,
    address: IpAddr,
}

impl Shares {
    /// Lets each address hold `most` places at once.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: Held::default(),
        }
    }

    /// A place for that address, if it has one left.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            held: Arc::clone(&self.held),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_takes_nothing_from_others() {
        let shares = Shares::new(2);
        let [one, other] = [[10, 0, 0, 4], [10, 0, 0, 5]].map(IpAddr::from);
        let held = [shares.take(one), shares.take(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(one).is_none());
        assert!(shares.take(other).is_some());
        drop(held);
        assert!(shares.held.lock().unwrap().is_empty());
        assert!(shares.take(one).is_some());
    }
}
