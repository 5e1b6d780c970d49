//! The upstream servers that a resolv.conf names.

use std::net::{IpAddr, SocketAddr};

/// Name servers in order, without those in `own`: asking ourselves would go round in circles.
pub fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    let values = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A zone after a link-local address cannot be used by a process that knows no interfaces.
    let ips = values.filter_map(|value| value.parse::<IpAddr>().ok());
    ips.filter(|ip| !own.contains(ip)).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_own_addresses_left_out() {
        let text = "# comment\nsearch a b\nnameserver 192.0.2.1 # first\nnameserver  10.96.0.10\n\
            nameserver fd00::1\nnameserver junk\nnameserverx 1.2.3.4\n; nameserver 1.1.1.1\n";
        let own = ["10.96.0.10".parse().expect("an address")];
        let got: Vec<String> = servers(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["192.0.2.1:53", "[fd00::1]:53"]);
    }
}
