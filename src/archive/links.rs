//! The symlinks of a tree and the question where they lead. It owns no file: the links are held in memory, so
//! that the answer is a pure function of the archive.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Linux follows at most 40 symlinks on one path; what comes after is never reached.
const MAX_FOLLOWED: u32 = 40;

/// What one look at all links may cost. Hostile links that lead through one another would otherwise keep a
/// processor busy for hours; the links of real slugs need a few steps each.
const MAX_STEPS: u64 = 20_000_000;

/// Where dynos see the tree.
const ROOT_IN_DYNO: &str = "app";

/// The symlinks of a tree: their paths below its root, and their targets.
#[derive(Default)]
pub(super) struct Links(HashMap<PathBuf, PathBuf>);

/// A symlink that must not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLink {
    pub(super) link: PathBuf,
    pub(super) target: PathBuf,
    pub(super) why: &'static str,
}

impl Links {
    pub(super) fn insert(&mut self, link: PathBuf, target: PathBuf) {
        self.0.insert(link, target);
    }

    pub(super) fn remove(&mut self, link: &Path) {
        self.0.remove(link);
    }

    pub(super) fn get(&self, link: &Path) -> Option<&Path> {
        self.0.get(link).map(PathBuf::as_path)
    }

    /// Looks for a link that leads out of the tree. Other links on its way are followed, for `..` after a
    /// link means the parent of what the link points to: text alone would let `a/b/s -> ../..` and `t ->
    /// a/b/s/../x` out.
    ///
    /// # Errors
    /// The first such link.
    pub(super) fn check(&self) -> Result<(), BadLink> {
        self.check_within(MAX_STEPS)
    }

    fn check_within(&self, mut steps_left: u64) -> Result<(), BadLink> {
        for (link, target) in &self.0 {
            if let Err(why) = self.follow(link, target, &mut steps_left) {
                return Err(BadLink { link: link.clone(), target: target.clone(), why });
            }
        }
        Ok(())
    }

    fn follow(&self, link: &Path, target: &Path, steps_left: &mut u64) -> Result<(), &'static str> {
        let mut at = link.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut ahead = Vec::new();
        enter(target, &mut at, &mut ahead)?;
        let mut followed = 0;
        while let Some(part) = ahead.pop() {
            if *steps_left == 0 {
                return Err("it is one of too many links that lead through one another");
            }
            *steps_left -= 1;
            if part == ".." {
                if !at.pop() {
                    return Err("it leads out of ./app");
                }
                continue;
            }
            at.push(part);
            if let Some(target) = self.get(&at) {
                followed += 1;
                if followed > MAX_FOLLOWED {
                    return Ok(());
                }
                at.pop();
                enter(target, &mut at, &mut ahead)?;
            }
        }
        Ok(())
    }
}

/// Puts the parts of a target on top of what is ahead. An absolute one starts again at the root.
fn enter(target: &Path, at: &mut PathBuf, ahead: &mut Vec<OsString>) -> Result<(), &'static str> {
    let mut parts = target.components();
    if target.is_absolute() {
        parts.next();
        if parts.next() != Some(Component::Normal(ROOT_IN_DYNO.as_ref())) {
            return Err("an absolute target must lie below /app, where the dyno sees the slug");
        }
        at.clear();
    }
    ahead.extend(
        parts.rev().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().to_owned()),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(links: &[(&str, &str)]) -> Result<(), BadLink> {
        let mut all = Links::default();
        for (link, target) in links {
            all.insert(link.into(), target.into());
        }
        all.check()
    }

    #[test]
    fn links_inside_the_tree_are_good() {
        for (link, target) in [
            ("bin/a", "../lib/a"),
            ("a", "."),
            ("a", "./missing/x"),
            ("a/b", ".."),
            ("a", "/app"),
            ("a/b/c", "/app/vendor/../x"),
            ("a", "a/x"),
        ] {
            assert_eq!(check(&[(link, target)]), Ok(()), "{link} -> {target}");
        }
        assert_eq!(check(&[("a", "b"), ("b", "a")]), Ok(()));
    }

    #[test]
    fn links_that_leave_are_bad() {
        for (link, target) in [
            ("a", ".."),
            ("a/b", "../../x"),
            ("a", "b/../../app/x"),
            ("a", "/etc/passwd"),
            ("a", "/"),
            ("a", "/app/../etc"),
            ("a", "/application"),
            ("a", "/../app"),
        ] {
            assert!(check(&[(link, target)]).is_err(), "{link} -> {target}");
        }
    }

    #[test]
    fn a_way_out_through_another_link_is_seen() {
        let bad = check(&[("a/b/c/s", "../../.."), ("t", "a/b/c/s/../../x")]).unwrap_err();
        assert_eq!(bad.link, Path::new("t"));
        assert!(check(&[("s", "/app"), ("t/u/v/w", "../../../s/../x")]).is_err());
        // lexically this one would leave
        assert_eq!(check(&[("deep", "a/b/c"), ("t", "deep/../../x")]), Ok(()));
    }

    #[test]
    fn tangled_links_do_not_take_for_ever() {
        let mut links = Links::default();
        let detour = "d/../".repeat(800);
        for n in 0..40 {
            links.insert(format!("l{n}").into(), format!("{detour}l{}", n + 1).into());
        }
        assert!(links.check_within(100_000).unwrap_err().why.contains("too many"));
    }
}
