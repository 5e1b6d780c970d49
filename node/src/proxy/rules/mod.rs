//! Services as nftables objects.
//!
//! A connection to a service address finds, in one map look-up, the chain for "one of N endpoints"; that chain draws a
//! number k and the chain of number k rewrites the destination with a look-up in map k:
//!
//! ```text
//! service-ips4  10.96.0.5 . tcp . 80 : goto ep4-of-3      (element of the service)
//! ep4-of-3      numgen random mod 3 vmap { 0 : goto ep4-0, 1 : goto ep4-1, 2 : goto ep4-2 }   (shared)
//! ep4-1         dnat ip addr . port to ip daddr . meta l4proto . th dport map @ep4-1          (shared)
//! map ep4-1     10.96.0.5 . tcp . 80 : 10.1.7.4 . 8080    (element of the service)
//! ```
//!
//! So a service without session affinity owns elements only, the number of chains follows the largest service and not
//! the number of services, and a changed endpoint is a changed element. Upstream has a chain with an anonymous map for
//! every service instead; loading 5,000 of those takes the kernel several times as long.
//!
//! Everything here is pure: views in, [`Fragment`](crate::network::nft::Fragment)s out.

mod affinity;
mod base;
mod clients;
mod pool;
mod service;

pub use affinity::unique_name;
pub use base::{LocalDetector, Settings, base};
pub use clients::restore_clients;
pub use pool::{Front, List, Pool};
pub use service::{Arrangement, ServiceRules, service};
