//! `--etcd-servers-overrides`: which built-in resources lie in stores of their own. Pure.
//!
//! Source: upstream's `apiserver/pkg/server/options/etcd.go`.

/// Upstream's sentence.
const FORM: &str = "--etcd-servers-overrides invalid, must be of format: group/resource#servers, where servers are URLs, semicolon separated";

/// One store besides the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Its endpoints, as first given.
    pub servers: Vec<String>,
    /// Groups and names of the resources that lie in it.
    pub resources: Vec<(String, String)>,
}

/// The stores that the parts of the flag name. The same servers, in whatever order, are one store; of two parts about one
/// resource the last one counts.
///
/// # Errors
/// A part has not the form.
pub fn parse(parts: &[String]) -> Result<Vec<Override>, String> {
    let mut stores: Vec<Override> = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let (resource, servers) = one(part).ok_or(FORM)?;
        stores.iter_mut().for_each(|store| store.resources.retain(|other| *other != resource));
        match stores.iter_mut().find(|store| sorted(&store.servers) == sorted(&servers)) {
            Some(store) => store.resources.push(resource),
            None => stores.push(Override { servers, resources: vec![resource] }),
        }
    }
    stores.retain(|store| !store.resources.is_empty());
    Ok(stores)
}

/// `group/resource#server;server`.
fn one(part: &str) -> Option<((String, String), Vec<String>)> {
    let (resource, servers) = part.split_once('#').filter(|(_, servers)| !servers.contains('#'))?;
    let (group, name) = resource.split_once('/').filter(|(_, name)| !name.contains('/'))?;
    let servers: Vec<String> = servers.split(';').map(str::to_owned).collect();
    let complete = servers.iter().all(|server| !server.is_empty());
    complete.then(|| ((group.to_owned(), name.to_owned()), servers))
}

fn sorted(servers: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = servers.iter().collect();
    sorted.sort();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_of_their_own() {
        let check = |flag: &str, expected: Option<&[(&str, &str)]>| {
            let parts: Vec<String> = flag.split(',').map(str::to_owned).collect();
            let shown = parse(&parts).map(|stores| {
                let names = |store: &Override| {
                    let names: Vec<String> =
                        store.resources.iter().map(|(g, r)| format!("{g}/{r}")).collect();
                    (store.servers.join(";"), names.join(" "))
                };
                stores.iter().map(names).collect::<Vec<_>>()
            });
            let owned = |rows: &[(&str, &str)]| -> Vec<(String, String)> {
                rows.iter().map(|(servers, names)| ((*servers).to_owned(), (*names).to_owned())).collect()
            };
            assert_eq!(shown, expected.map(owned).ok_or(FORM.to_owned()), "{flag}");
        };
        check("", Some(&[]));
        check("/events#http://a:1;http://b:1", Some(&[("http://a:1;http://b:1", "/events")]));
        check(
            "/events#b;a,apps/deployments#c,batch/jobs#a;b",
            Some(&[("b;a", "/events batch/jobs"), ("c", "apps/deployments")]),
        );
        check("/events#a,/events#b", Some(&[("b", "/events")]));
        for wrong in ["events#a", "/events", "/events#", "/events#a;", "/events#a#b", "a/b/c#d"] {
            check(wrong, None);
        }
    }
}
