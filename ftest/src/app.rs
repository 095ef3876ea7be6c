//! Releases of a test's app, as the control file that an operator would write.

use serde_json::{Map, Value, json};

/// A release, put together piece by piece.
#[derive(Clone, Debug)]
pub struct App {
    fields: Map<String, Value>,
}

impl App {
    /// Release 1 of an app, without process types; its dynos carry a mark in their environment.
    pub fn new(slug: &str, mark: &str) -> Self {
        let app = Self { fields: Map::new() }.version(1).field("Name", "app");
        let app = app.field("Env", json!({"FTEST_MARK": mark})).slug(slug);
        app.field("Stack", "heroku-24").field("Processes", json!([]))
    }

    /// Any field, whether a control file has it or not.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// The version.
    #[must_use]
    pub fn version(self, version: u64) -> Self {
        self.field("Version", version)
    }

    /// The location of the slug.
    #[must_use]
    pub fn slug(self, location: &str) -> Self {
        self.field("Slug", location)
    }

    /// One more config var.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = self.fields.get_mut("Env").and_then(Value::as_object_mut);
        env.expect("Env is an object").insert(name.to_owned(), value.into());
        self
    }

    /// One more process type, whose command is a shell command line.
    #[must_use]
    pub fn process(self, process_type: &str, line: &str, quantity: u32) -> Self {
        self.process_args(process_type, &[line], quantity)
    }

    /// One more process type, whose command is several words.
    #[must_use]
    pub fn process_args(mut self, process_type: &str, args: &[&str], quantity: u32) -> Self {
        let processes = self.fields.get_mut("Processes").and_then(Value::as_array_mut);
        let process = json!({"Type": process_type, "Args": args, "Quantity": quantity});
        processes.expect("Processes is an array").push(process);
        self
    }

    /// The control file as a value.
    pub fn value(&self) -> Value {
        Value::Object(self.fields.clone())
    }

    /// The control file.
    pub fn text(&self) -> String {
        self.value().to_string()
    }
}
