//! What the API says of the app, with all the fields that the real one has.

use serde_json::{Value, json};

use super::app::{Checksum, HerokuApp, Kind, Release, Slug, uuid};
use super::range::Range;
use super::reply::{Reply, hex_digest};

/// When everything was made: no client has to care.
const MADE_AT: &str = "2024-05-01T12:00:00Z";

impl HerokuApp {
    /// `GET /apps/{app}`
    pub(super) fn info(&self) -> Reply {
        let stack = self.stack_info();
        let user = user();
        Reply::json(
            200,
            &json!({
                "acm": true, "archived_at": null, "build_stack": stack, "buildpack_provided_description": "Ruby",
                "created_at": MADE_AT, "generation": {"id": uuid(Kind::Other, 2), "name": "cedar"},
                "git_url": format!("https://git.heroku.com/{}.git", self.name), "id": uuid(Kind::App, 1),
                "internal_routing": false, "maintenance": false, "name": self.name, "organization": null,
                "owner": user, "region": {"id": uuid(Kind::Other, 3), "name": "us"}, "released_at": MADE_AT,
                "repo_size": 0, "slug_size": 1234, "space": null, "stack": stack, "team": null,
                "updated_at": MADE_AT, "web_url": format!("https://{}-0123456789ab.herokuapp.com/", self.name),
            }),
        )
    }

    /// `GET /apps/{app}/releases`, newest first if so asked.
    pub(super) fn list_releases(&self, range: &Range) -> Reply {
        let mut releases: Vec<&Release> = self.releases.iter().collect();
        if range.descending {
            releases.reverse();
        }
        if let Some((start, exclusive)) = range.start() {
            let beyond = |version: u64| if range.descending { version < start } else { version > start };
            releases.retain(|release| beyond(release.version) || (!exclusive && release.version == start));
        }
        let more = releases.len() > range.max;
        releases.truncate(range.max);
        let current = self.current_version();
        let list: Value = releases.iter().map(|release| self.release_info(release, current)).collect();
        let reply = Reply::json(if more { 206 } else { 200 }, &list);
        let (Some(first), Some(last)) = (releases.first(), releases.last()) else { return reply };
        let max = range.max;
        let reply =
            reply.header("content-range", format!("version {}..{}; max={max}", first.version, last.version));
        let order = if range.descending { "order=desc," } else { "" };
        let next = format!("version ]{}..; {order}max={max}", last.version);
        if more { reply.header("next-range", next) } else { reply }
    }

    fn release_info(&self, release: &Release, current: Option<u64>) -> Value {
        let Release { version, status, slug, description, .. } = release;
        let mut info = json!({
            "addon_plan_names": [], "app": self.reference(), "created_at": MADE_AT, "description": description,
            "eligible_for_rollback": status == "succeeded", "id": release.id(), "oci_image": null,
            "output_stream_url": null, "slug": slug.as_ref().map(|id| json!({"id": id})), "status": status,
            "updated_at": MADE_AT, "user": user(), "version": version,
        });
        if self.sends_current {
            info["current"] = (current == Some(*version)).into();
        }
        info
    }

    /// `GET /apps/{app}/releases/{id or version}/config-vars`
    pub(super) fn release_config_vars(&self, id: &str) -> Reply {
        let release = self.releases.iter().find(|own| own.id() == id || own.version.to_string() == id);
        match release.filter(|_| self.has_release_config_vars) {
            Some(release) => Reply::json(200, &json!(release.config)),
            None => not_found("release"),
        }
    }

    /// `GET /apps/{app}/config-vars`
    pub(super) fn config_vars(&self) -> Reply {
        Reply::json(200, &json!(self.config))
    }

    /// `GET /apps/{app}/slugs/{id}`: with a blob URL that nobody was given before.
    pub(super) fn slug_info(&mut self, id: &str, base: &str) -> Reply {
        let signature = self.sign();
        let Some(slug) = self.slugs.iter().find(|slug| slug.id == id) else { return not_found("slug") };
        let url = format!("{base}/blobs/{id}?Signature={signature}&Expires=1893456000");
        let types: serde_json::Map<_, _> =
            slug.process_types.iter().map(|(name, command)| (name.clone(), command.clone().into())).collect();
        Reply::json(
            200,
            &json!({
                "blob": {"method": "GET", "url": url}, "buildpack_provided_description": "Ruby",
                "checksum": slug.claimed_checksum(), "commit": null, "commit_description": null,
                "created_at": MADE_AT, "id": id, "process_types": types, "size": slug.bytes.len(),
                "stack": self.stack_info(), "updated_at": MADE_AT,
            }),
        )
    }

    /// `GET /apps/{app}/formation`
    pub(super) fn formation_info(&self) -> Reply {
        let process = |(n, (name, command, quantity)): (usize, (&str, &str, u32))| {
            json!({
                "app": self.reference(), "command": command, "created_at": MADE_AT,
                "dyno_size": {"id": uuid(Kind::Other, 4), "name": "Basic"}, "id": uuid(Kind::Formation, n + 1),
                "quantity": quantity, "size": "basic", "type": name, "updated_at": MADE_AT,
            })
        };
        Reply::json(200, &self.formation().into_iter().enumerate().map(process).collect())
    }

    /// `GET /blobs/{id}`
    pub(super) fn blob(&self, id: &str, query: &str) -> Reply {
        match self.slugs.iter().find(|slug| slug.id == id) {
            _ if !self.is_signed(query) => Reply::blob_error(403, "AccessDenied", "Request has expired"),
            Some(slug) => Reply::blob(slug.bytes.clone()),
            None => Reply::blob_error(404, "NoSuchKey", "The specified key does not exist."),
        }
    }

    fn stack_info(&self) -> Value {
        json!({"id": uuid(Kind::Stack, self.stack.len()), "name": self.stack})
    }

    fn reference(&self) -> Value {
        json!({"id": uuid(Kind::App, 1), "name": self.name})
    }
}

impl Release {
    fn id(&self) -> String {
        uuid(Kind::Release, usize::try_from(self.version).expect("versions are small"))
    }
}

impl Slug {
    fn claimed_checksum(&self) -> Option<String> {
        match self.checksum {
            Checksum::True => Some(format!("SHA256:{}", hex_digest(&self.bytes))),
            Checksum::Wrong => Some(format!("SHA256:{}", "0".repeat(64))),
            Checksum::Unknown => None,
        }
    }
}

/// There is no such thing.
pub(super) fn not_found(resource: &str) -> Reply {
    let message = format!("Couldn't find that {resource}.");
    Reply::json(404, &json!({"id": "not_found", "message": message, "resource": resource}))
}

fn user() -> Value {
    json!({"email": "someone@example.com", "id": uuid(Kind::Other, 1)})
}
