//! Puts the cluster DNS address on this machine.
//!
//! The address stands on the loopback interface. Packets to and from it are taken out of connection tracking: they
//! then meet neither the rewriting nor the rejecting of a Service that has the same address, and a busy DNS server
//! does not fill the tracking table. The table for that is this module's own and goes when the server stops.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::{Handle, new_connection};

use crate::network::nft::{ApplyError, Nft};

/// Family and name of the table.
const TABLE: &str = "inet quarterdeck-dns";
const LOOPBACK: &str = "lo";

/// Why the address is not there.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The packet filter refused.
    #[error("cannot take the DNS address out of connection tracking: {0}")]
    Filter(#[from] ApplyError),
    /// The kernel refused the address. This needs CAP_NET_ADMIN.
    #[error("cannot put {ip} on the loopback interface: {source}")]
    Interface {
        /// The address.
        ip: IpAddr,
        /// Cause.
        source: rtnetlink::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
}

/// The packet filter script for these addresses.
fn script(ips: &[IpAddr], port: u16) -> String {
    let mut rules = String::new();
    for (chain, direction, side) in
        [("prerouting", "daddr", "dport"), ("output", "saddr", "sport"), ("output", "daddr", "dport")]
    {
        for ip in ips {
            let family = if ip.is_ipv4() { "ip" } else { "ip6" };
            for protocol in ["udp", "tcp"] {
                rules.push_str(&format!(
                    "add rule {TABLE} {chain} {family} {direction} {ip} {protocol} {side} {port} notrack\n"
                ));
            }
        }
    }
    format!(
        "add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n\
        add chain {TABLE} prerouting {{ type filter hook prerouting priority -300; }}\n\
        add chain {TABLE} output {{ type filter hook output priority -300; }}\n{rules}"
    )
}

/// Puts the addresses on the machine; harmless when they are there.
pub async fn hold(ips: &[IpAddr], port: u16, nft: &Nft) -> Result<(), AddressError> {
    nft.apply(&script(ips, port)).await?;
    let (connection, handle, _) = new_connection()?;
    let task = tokio::spawn(connection);
    let mut outcome = Ok(());
    for ip in ips {
        outcome = outcome
            .and(add(&handle, *ip).await.map_err(|source| AddressError::Interface { ip: *ip, source }));
    }
    task.abort();
    outcome
}

async fn loopback(handle: &Handle) -> Result<u32, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(LOOPBACK.to_owned()).execute();
    // Every network namespace has it, as number one.
    Ok(links.try_next().await?.map_or(1, |link| link.header.index))
}

async fn add(handle: &Handle, ip: IpAddr) -> Result<(), rtnetlink::Error> {
    let index = loopback(handle).await?;
    let prefix = if ip.is_ipv4() { 32 } else { 128 };
    handle.address().add(index, ip, prefix).replace().execute().await
}

/// Takes the addresses and the table away, as far as they are there.
pub async fn release(ips: &[IpAddr], nft: &Nft) {
    if let Err(error) = nft.apply(&format!("add table {TABLE}\ndelete table {TABLE}\n")).await {
        tracing::warn!(%error, "the DNS packet filter table stays behind");
    }
    let Ok((connection, handle, _)) = new_connection() else { return };
    let task = tokio::spawn(connection);
    for ip in ips {
        let found = handle.address().get().set_address_filter(*ip).execute().try_collect::<Vec<_>>().await;
        for message in found.unwrap_or_default() {
            if let Err(error) = handle.address().del(message).execute().await {
                tracing::warn!(%ip, %error, "the DNS address stays behind");
            }
        }
    }
    task.abort();
}
