//! Node ports: one bitmap in the store, swapped whole, so that no two servers ever hand out the same port and a
//! server that takes over knows every claim.
//!
//! The object lies where upstream keeps it and has its shape (`RangeAllocation`), so that both can run on one store.
//! [`PortSet`] is the pure half; [`PortAllocator`] swaps it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use machinery::status::StatusError;
use proto::etcdserverpb as pb;
use serde_json::{Value, json};

use super::pools::{PoolError, PortRange};
use crate::registry::create::txn_revision;
use crate::registry::errors;
use crate::storage::Store;
use crate::storage::keys::put_if;

/// Where the bitmap lies.
const KEY: &[u8] = b"/registry/ranges/servicenodeports";
/// Swaps tried before a request fails: each failure means that another server has made progress.
const ATTEMPTS_MAX: usize = 32;

/// The ports that are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet {
    range: PortRange,
    /// One bit a port, the first port lowest.
    bits: Vec<u8>,
}

impl PortSet {
    pub fn new(range: PortRange) -> Self {
        let len = usize::from(range.last - range.first) / 8 + 1;
        Self { range, bits: vec![0; len] }
    }

    fn place(&self, port: u16) -> Option<(usize, u8)> {
        let offset = usize::from(port.checked_sub(self.range.first)?);
        self.range.contains(port).then_some((offset / 8, 1 << (offset % 8)))
    }

    pub fn contains(&self, port: u16) -> bool {
        self.place(port).is_some_and(|(byte, bit)| self.bits[byte] & bit != 0)
    }

    /// Takes this very port.
    pub fn claim_exact(&mut self, port: u16) -> Result<(), PoolError> {
        let (byte, bit) = self.place(port).ok_or(PoolError::PortOutOfRange(self.range))?;
        if self.bits[byte] & bit != 0 {
            return Err(PoolError::PortTaken);
        }
        self.bits[byte] |= bit;
        Ok(())
    }

    /// Takes any free port.
    pub fn claim_any(&mut self, random: u64) -> Result<u16, PoolError> {
        let free = self.range.candidates(random).find(|port| !self.contains(*port)).ok_or(PoolError::Full)?;
        self.claim_exact(free)?;
        Ok(free)
    }

    /// Gives a port back; ports outside the range are nobody's.
    pub fn release(&mut self, port: u16) {
        if let Some((byte, bit)) = self.place(port) {
            self.bits[byte] &= !bit;
        }
    }

    /// Every taken port.
    pub fn taken(&self) -> impl Iterator<Item = u16> {
        (self.range.first..=self.range.last).filter(|port| self.contains(*port))
    }

    /// The stored object; the bitmap is a big-endian number without leading zeros, as upstream writes it.
    fn encode(&self) -> Bytes {
        let number: Vec<u8> = self.bits.iter().rev().copied().skip_while(|byte| *byte == 0).collect();
        let object = json!({
            "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {},
            "range": self.range.to_string(), "data": STANDARD.encode(number),
        });
        object.to_string().into()
    }

    /// Reads a stored object; ports that have left the range are dropped.
    fn decode(range: PortRange, stored: &[u8]) -> Option<Self> {
        let object: Value = if machinery::codec::is_protobuf(stored) {
            machinery::codec::decode(stored).ok()?.value
        } else {
            serde_json::from_slice(stored).ok()?
        };
        let held: PortRange = object["range"].as_str()?.parse().ok()?;
        let number = STANDARD.decode(object["data"].as_str().unwrap_or_default()).ok()?;
        let mut old = Self::new(held);
        let len = old.bits.len();
        number.iter().rev().take(len).enumerate().for_each(|(i, byte)| old.bits[i] = *byte);
        if held == range {
            return Some(old);
        }
        let mut new = Self::new(range);
        old.taken().for_each(|port| new.claim_exact(port).unwrap_or_default());
        Some(new)
    }
}

/// The set as last seen in the store.
struct Seen {
    revision: i64,
    set: PortSet,
}

/// Claims against the store's bitmap.
pub struct PortAllocator {
    range: PortRange,
    store: Arc<dyn Store>,
    /// Held across a swap: the requests of one server do not race each other.
    seen: tokio::sync::Mutex<Seen>,
}

impl PortAllocator {
    pub fn new(range: PortRange, store: Arc<dyn Store>) -> Self {
        let seen = Seen { revision: 0, set: PortSet::new(range) };
        Self { range, store, seen: tokio::sync::Mutex::new(seen) }
    }

    /// Makes a change and stores it. `make` sees the newest set and runs again when another server was quicker.
    pub async fn change<T>(
        &self,
        mut make: impl FnMut(&mut PortSet) -> Result<T, StatusError>,
    ) -> Result<T, StatusError> {
        let mut seen = self.seen.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let mut next = seen.set.clone();
            let made = make(&mut next);
            if made.is_err() || next == seen.set {
                // A refusal, or that there is nothing to do, counts only against the newest set.
                let newest = self.load().await?;
                if newest.revision == seen.revision {
                    return made;
                }
                *seen = newest;
                continue;
            }
            let request = put_if(&Bytes::from_static(KEY), seen.revision, next.encode(), 0);
            let response = self.store.txn(request).await.map_err(|e| errors::from_store(&e))?;
            if response.succeeded {
                *seen = Seen { revision: txn_revision(&response), set: next };
                return made;
            }
            *seen = self.read(range_of(&response));
        }
        Err(StatusError::server_timeout("", "services", "allocate", 1))
    }

    async fn load(&self) -> Result<Seen, StatusError> {
        let request = pb::RangeRequest { key: Bytes::from_static(KEY), ..Default::default() };
        let response = self.store.range(request).await.map_err(|e| errors::from_store(&e))?;
        Ok(self.read(Some(&response)))
    }

    /// What a change would give now, without making it (dry runs).
    pub async fn preview<T>(
        &self,
        make: impl FnOnce(&mut PortSet) -> Result<T, StatusError>,
    ) -> Result<T, StatusError> {
        let mut newest = self.load().await?.set;
        make(&mut newest)
    }

    /// Gives ports back; a failure leaves them to the repair.
    pub async fn release(&self, ports: &[u16]) {
        if ports.is_empty() {
            return;
        }
        let released = self
            .change(|set| {
                ports.iter().for_each(|port| set.release(*port));
                Ok(())
            })
            .await;
        if let Err(error) = released {
            tracing::warn!(?ports, %error, "node ports not given back; the repair will do it");
        }
    }

    fn read(&self, response: Option<&pb::RangeResponse>) -> Seen {
        let Some(kv) = response.and_then(|r| r.kvs.first()) else {
            return Seen { revision: 0, set: PortSet::new(self.range) };
        };
        let set = PortSet::decode(self.range, &kv.value).unwrap_or_else(|| {
            tracing::error!("the stored node-port bitmap cannot be read; the repair rebuilds it");
            PortSet::new(self.range)
        });
        Seen { revision: kv.mod_revision, set }
    }
}

/// What the failed half of the swap read.
fn range_of(response: &pb::TxnResponse) -> Option<&pb::RangeResponse> {
    match response.responses.first()?.response.as_ref()? {
        pb::response_op::Response::ResponseRange(range) => Some(range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_exclude_each_other() {
        let range = PortRange { first: 10, last: 11 };
        let mut set = PortSet::new(range);
        assert_eq!(set.claim_exact(9), Err(PoolError::PortOutOfRange(range)));
        assert_eq!(set.claim_exact(10), Ok(()));
        assert_eq!(set.claim_exact(10), Err(PoolError::PortTaken));
        assert_eq!(set.claim_any(3), Ok(11));
        assert_eq!(set.claim_any(3), Err(PoolError::Full));
        set.release(11);
        assert_eq!(set.taken().collect::<Vec<_>>(), [10]);
    }

    #[test]
    fn the_stored_form_is_upstreams() {
        let range = PortRange { first: 30000, last: 32767 };
        let mut set = PortSet::new(range);
        for port in [30000, 30009] {
            set.claim_exact(port).expect("free");
        }
        let stored = set.encode();
        let object: Value = serde_json::from_slice(&stored).expect("JSON");
        // Bits 0 and 9 of a big-endian number: 0x0201.
        assert_eq!((object["range"].as_str(), object["data"].as_str()), (Some("30000-32767"), Some("AgE=")));
        assert_eq!(PortSet::decode(range, &stored).as_ref(), Some(&set));
        let smaller = PortRange { first: 30005, last: 30010 };
        let kept = PortSet::decode(smaller, &stored).expect("decodes");
        assert_eq!(kept.taken().collect::<Vec<_>>(), [30009]);
    }
}
