//! The files of a dyno's `/etc` that are its own. Pure: what they are made from is read by others.

use std::net::Ipv4Addr;

/// What the dyno's user and group are called.
pub(super) const USER: &str = "dyno";

/// What the files are made from.
pub(super) struct Etc<'a> {
    /// `/etc/passwd` of the stack image.
    pub(super) passwd: &'a str,
    /// `/etc/group` of the stack image.
    pub(super) group: &'a str,
    /// The user and the group of the dyno.
    pub(super) uid: u32,
    /// The name of the host, as the dyno sees it.
    pub(super) hostname: &'a str,
    /// The address of the dyno.
    pub(super) address: Ipv4Addr,
    /// `resolv.conf`.
    pub(super) resolver: &'a str,
}

impl Etc<'_> {
    /// The files: name and content.
    pub(super) fn files(&self) -> Vec<(String, String)> {
        let Self { uid, hostname, address, .. } = self;
        let user = format!("{USER}:x:{uid}:{uid}:{USER}:/app:/bin/bash\n");
        let group = format!("{USER}:x:{uid}:\n");
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n"
        );
        let files = [
            ("passwd", without(self.passwd, *uid) + &user),
            ("group", without(self.group, *uid) + &group),
            ("hosts", hosts),
            ("hostname", format!("{hostname}\n")),
            ("resolv.conf", self.resolver.to_owned()),
        ];
        files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
    }
}

/// The lines of a passwd or group file but those of the dyno's name or number.
fn without(file: &str, number: u32) -> String {
    let number = number.to_string();
    let other = |line: &&str| {
        let mut fields = line.split(':');
        fields.next() != Some(USER) && fields.nth(1) != Some(&number)
    };
    file.lines().filter(other).map(|line| format!("{line}\n")).collect()
}

/// The name of a dyno as that of a host: letters, digits and dashes.
pub(super) fn hostname(dyno: &str) -> String {
    dyno.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynos_user_is_there_once_beside_those_of_the_stack() {
        let etc = Etc {
            passwd: "root:x:0:0:root:/root:/bin/bash\ndyno:x:9:9::/:/bin/sh\nold:x:3001:3001::/:/bin/sh",
            group: "root:x:0:\nwheel:x:3001:a,b\n",
            uid: 3001,
            hostname: &hostname("web.1"),
            address: Ipv4Addr::new(172, 16, 0, 30),
            resolver: "nameserver 192.0.2.1\n",
        };
        let files = etc.files();
        let file = |name: &str| files.iter().find(|(known, _)| known == name).unwrap().1.as_str();
        assert_eq!(file("passwd"), "root:x:0:0:root:/root:/bin/bash\ndyno:x:3001:3001:dyno:/app:/bin/bash\n");
        assert_eq!(file("group"), "root:x:0:\ndyno:x:3001:\n");
        assert_eq!((file("hostname"), file("resolv.conf")), ("web-1\n", "nameserver 192.0.2.1\n"));
        assert!(file("hosts").contains("172.16.0.30\tweb-1\n"));
    }
}
