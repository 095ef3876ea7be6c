//! Real tarballs, images, mounts and downloads. Each test has a mount namespace of its own, so that no mount is ever
//! seen outside of it.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::explain;
use crate::model::Sha256Digest;
use crate::stack::folder::Kind;
use crate::stack::mount::in_private_namespace;
use crate::stack::{Checksum, FileSystem};

const AT_ONCE: Retry = Retry { attempts: 2, first_delay: Duration::ZERO, longest_delay: Duration::ZERO };

struct Host {
    temp: TempDir,
    stacks: Stacks,
}

impl Host {
    fn new(manifest: Option<&str>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let manifest = manifest.map(|url| StackLocation::Url(url.to_owned()));
        let stacks = Stacks::with(temp.path().join("stacks"), manifest, AT_ONCE, LIMITS);
        Self { temp, stacks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> StackLocation {
        fs::write(self.path(name), bytes).unwrap();
        StackLocation::Path(self.path(name))
    }

    /// What is in the folder of stacks.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("stacks")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A tiny root file system as a directory.
    fn root(&self) -> PathBuf {
        let root = self.path("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/sh"), "#!").unwrap();
        root
    }

    fn image(&self, name: &str) -> StackLocation {
        let (root, image) = (self.root(), self.path(name));
        let mut command = match name {
            "squashfs" => Command::new("mksquashfs"),
            _ => Command::new("mke2fs"),
        };
        match name {
            "squashfs" => command.arg(root).arg(&image).args(["-quiet", "-no-progress", "-noappend"]),
            _ => command.args(["-q", "-F", "-t", name, "-d"]).arg(root).arg(&image).arg("4M"),
        };
        let made = command.output().expect("e2fsprogs and squashfs-tools are installed");
        assert!(made.status.success(), "{made:?}");
        StackLocation::Path(image)
    }

    /// Waits until no loop device shows a file of this host any more: the kernel lets go of it a moment after the
    /// unmount.
    fn wait_no_loop_device(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !loop_devices(self.temp.path()).is_empty() {
            assert!(Instant::now() < deadline, "{:?}", loop_devices(self.temp.path()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(self.temp.path().to_str().unwrap()), "{mounts}");
    }
}

fn loop_devices(below: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(below.to_str().unwrap())).collect()
}

/// Runs a test in a mount namespace of its own; not at all where it is not root's.
fn test(work: impl AsyncFnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skip: mounting takes root");
        return;
    }
    in_private_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    })
    .unwrap();
}

fn id(text: &str) -> StackId {
    text.parse().unwrap()
}

fn name(text: &str) -> StackName {
    text.parse().unwrap()
}

fn tarball(files: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        tar.append_data(&mut header, file, file.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// Serves each path its bytes, of which `cut` bytes are held back; counts the requests.
async fn serve(files: Vec<(&'static str, Vec<u8>)>, cut: usize) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap();
            let Some((_, body)) = files.iter().find(|(file, _)| *file == path) else {
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await;
                continue;
            };
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body[..body.len() - cut]).await;
        }
    });
    (base, server)
}

#[test]
fn a_tarball_is_unpacked_found_and_removed() {
    test(async || {
        let host = Host::new(None);
        let location = host.put("root.tgz", &tarball(&["./bin/sh", "etc/passwd"]));
        host.stacks.add(&id("heroku-24-v9"), &location, None).await.unwrap();
        host.stacks.add(&id("heroku-24-v10"), &location, None).await.unwrap();
        assert_eq!(host.names(), ["heroku-24-v10", "heroku-24-v9"]);
        assert_eq!(host.stacks.find(&name("heroku-24")).unwrap(), Some(id("heroku-24-v10")));
        let stack = host.stacks.prepare(Some(&name("heroku-24"))).await.unwrap();
        assert_eq!((&stack.id, &stack.root), (&id("heroku-24-v10"), &host.path("stacks/heroku-24-v10")));
        let sh = fs::metadata(stack.root.join("bin/sh")).unwrap();
        assert_eq!((sh.mode() & 0o7777, sh.uid(), sh.gid()), (0o4755, 7, 8));
        let error = host.stacks.add(&id("heroku-24-v9"), &location, None).await.unwrap_err();
        assert!(matches!(error, StackError::AlreadyHere { .. }), "{error}");
        let error = host.stacks.remove(&id("heroku-24-v10")).await.unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        drop(stack);
        host.stacks.remove(&id("heroku-24-v10")).await.unwrap();
        assert_eq!(host.names(), ["heroku-24-v9"]);
        let error = host.stacks.remove(&id("heroku-24-v10")).await.unwrap_err().to_string();
        assert!(error.contains("no stack heroku-24-v10") && error.contains("hsup stack"), "{error}");
    });
}

#[test]
fn images_are_mounted_read_only_and_leave_nothing() {
    test(async || {
        for file_system in ["ext2", "ext4", "squashfs"] {
            let host = Host::new(None);
            let location = host.image(file_system);
            host.stacks.add(&id("img-1"), &location, None).await.unwrap();
            assert_eq!(host.names(), ["img-1.img"]);
            host.wait_no_loop_device();
            let kind = if file_system == "squashfs" { FileSystem::Squashfs } else { FileSystem::Ext };
            let entry = &host.stacks.list().unwrap()[0];
            assert_eq!((entry.kind, entry.mounted), (Kind::Image(Some(kind)), false));

            let stack = host.stacks.prepare(Some(&name("img"))).await.unwrap();
            assert_eq!(fs::read_to_string(stack.root.join("bin/sh")).unwrap(), "#!");
            let error = fs::write(stack.root.join("bin/x"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let mounted = mounts.lines().find(|line| line.contains(stack.root.to_str().unwrap())).unwrap();
            assert!(["ro", "nosuid", "nodev"].iter().all(|flag| mounted.contains(flag)), "{mounted}");
            assert!(host.stacks.list().unwrap()[0].mounted);
            // the second one finds it mounted
            let again = host.stacks.prepare(None).await.unwrap();
            assert_eq!(again.root, stack.root);
            assert_eq!(loop_devices(host.temp.path()).len(), 1);

            let error = host.stacks.remove(&id("img-1")).await.unwrap_err();
            assert!(matches!(error, StackError::InUse { .. }), "{error}");
            drop((stack, again));
            let busy = File::open(host.path("stacks/img-1/bin/sh")).unwrap();
            let error = host.stacks.remove(&id("img-1")).await.unwrap_err();
            assert!(matches!(error, StackError::InUse { .. }), "{error}");
            drop(busy);
            host.stacks.remove(&id("img-1")).await.unwrap();
            assert_eq!(host.names(), [""; 0]);
            host.wait_no_loop_device();
        }
    });
}

#[test]
fn an_image_that_was_put_there_by_hand_is_a_stack() {
    test(async || {
        let host = Host::new(None);
        let StackLocation::Path(image) = host.image("squashfs") else { unreachable!() };
        fs::create_dir_all(host.path("stacks/img-1")).unwrap();
        assert!(host.stacks.find(&name("img")).unwrap().is_none());
        fs::copy(image, host.path("stacks/img-1.img")).unwrap();
        let stack = host.stacks.prepare(Some(&name("img-1"))).await.unwrap();
        assert!(stack.root.join("bin/sh").exists());
        drop(stack);
        fs::write(host.path("stacks/bad-1.img"), "hsqs but no more").unwrap();
        let error = host.stacks.prepare(Some(&name("bad"))).await.unwrap_err();
        assert!(matches!(error, StackError::BadImage { .. }), "{error:?}");
        host.stacks.remove(&id("img-1")).await.unwrap();
        assert_eq!(host.names(), ["bad-1.img"]);
        host.wait_no_loop_device();
    });
}

#[test]
fn what_is_no_stack_is_refused_and_leaves_nothing() {
    test(async || {
        let host = Host::new(None);
        let StackLocation::Path(image) = host.image("squashfs") else { unreachable!() };
        let whole = fs::read(image).unwrap();
        let good = tarball(&["bin/sh"]);
        let StackLocation::Path(empty_image) = ({
            let other = Host::new(None);
            fs::create_dir(other.path("root")).unwrap();
            let image = host.path("rootless");
            let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&image).arg("4M").output();
            assert!(made.unwrap().status.success());
            StackLocation::Path(image)
        }) else {
            unreachable!()
        };
        let cases: [(&str, Vec<u8>, &str); 8] = [
            ("empty", Vec::new(), "it is empty"),
            ("text", b"no stack".to_vec(), "root tarball"),
            ("xz", b"\xfd7zXZ\0 and so on".to_vec(), "unxz"),
            ("cut tarball", good[..good.len() - 9].to_vec(), "cut short"),
            ("rootless tarball", tarball(&["app/x"]), "neither bin nor usr"),
            ("climbing tarball", climbing(), "`..`"),
            ("cut image", whole[..200].to_vec(), "damaged"),
            ("rootless image", fs::read(empty_image).unwrap(), "neither bin nor usr"),
        ];
        for (what, bytes, said) in cases {
            let location = host.put("stack", &bytes);
            let error = host.stacks.add(&id("x-1"), &location, None).await.unwrap_err();
            assert!(explain(&error).contains(said), "{what}: {}", explain(&error));
            assert_eq!(host.names(), [""; 0], "{what}");
        }
        let error = host.stacks.add(&id("x-1"), &StackLocation::Path(host.root()), None).await.unwrap_err();
        assert!(error.to_string().contains("tar -C"), "{error}");
        let missing = StackLocation::Path("/no/such/file.tgz".into());
        let error = host.stacks.add(&id("x-1"), &missing, None).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/file.tgz"), "{error}");
        assert_eq!(host.names(), [""; 0]);
        host.wait_no_loop_device();
    });
}

fn climbing() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..11].copy_from_slice(b"../../../up");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    [header.as_bytes().as_slice(), &[0; 1024]].concat()
}

#[test]
fn a_checksum_must_fit() {
    test(async || {
        let host = Host::new(None);
        let bytes = tarball(&["bin/sh"]);
        let location = host.put("stack.tgz", &bytes);
        for wrong in [Checksum::Sha256(Sha256Digest([1; 32])), Checksum::Md5([1; 16])] {
            let error = host.stacks.add(&id("x-1"), &location, Some(wrong)).await.unwrap_err().to_string();
            assert!(error.contains(&wrong.to_string()), "{error}");
            assert_eq!(host.names(), [""; 0]);
        }
        let sha256 = Checksum::Sha256(Sha256Digest(Sha256::digest(&bytes).into()));
        host.stacks.add(&id("x-1"), &location, Some(sha256)).await.unwrap();
        let md5 = Checksum::Md5(Md5::digest(&bytes).into());
        host.stacks.add(&id("x-2"), &location, Some(md5)).await.unwrap();
        assert_eq!(host.names(), ["x-1", "x-2"]);
    });
}

fn manifest(base: &str, file: &str, bytes: &[u8]) -> String {
    let sha256 = Sha256Digest(Sha256::digest(bytes).into());
    format!("- {{name: heroku-24, version: v3, url: \"{base}/{file}\", sha256: {sha256}, primary: true}}\n")
}

#[test]
fn a_truncated_download_leaves_nothing() {
    test(async || {
        let bytes = tarball(&["bin/sh"]);
        let (base, _server) = serve(vec![("/stack.tgz", bytes)], 7).await;
        let host = Host::new(None);
        let url = StackLocation::Url(format!("{base}/stack.tgz"));
        let error = host.stacks.add(&id("x-1"), &url, None).await.unwrap_err();
        assert!(error.to_string().contains("broke off"), "{error}");
        assert_eq!(host.names(), [""; 0]);
        let missing = StackLocation::Url(format!("{base}/missing.tgz"));
        let error = host.stacks.add(&id("x-1"), &missing, None).await.unwrap_err().to_string();
        assert!(error.contains("404") && error.contains("check the URL"), "{error}");
    });
}

#[test]
fn what_is_not_here_comes_from_the_manifest_and_is_kept() {
    test(async || {
        let source = Host::new(None);
        let StackLocation::Path(image) = source.image("squashfs") else { unreachable!() };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut gzip, &fs::read(image).unwrap()).unwrap();
        let bytes = gzip.finish().unwrap();
        let (base, files) = serve(vec![("/stack.img.gz", bytes.clone())], 0).await;
        let text = manifest(&base, "stack.img.gz", &bytes);
        let (url, manifests) = serve(vec![("/manifest.yml", text.into_bytes())], 0).await;
        let host = Host::new(Some(&format!("{url}/manifest.yml")));
        let error = host.stacks.prepare(Some(&name("cedar-14"))).await.unwrap_err().to_string();
        assert!(error.contains("cedar-14") && error.contains("heroku-24"), "{error}");
        // a release that names no stack gets the primary one; two that start at once wait for one download
        let other = Stacks::with(
            host.path("stacks"),
            Some(StackLocation::Url(format!("{url}/manifest.yml"))),
            AT_ONCE,
            LIMITS,
        );
        let heroku = name("heroku-24");
        let (one, two) = tokio::join!(host.stacks.prepare(None), other.prepare(Some(&heroku)));
        assert_eq!(one.unwrap().root, two.unwrap().root);
        assert_eq!(host.names(), [".manifest.json", "heroku-24-v3", "heroku-24-v3.img"]);
        files.abort();
        manifests.abort();
        let added = host.stacks.add_from_manifest(&heroku).await.unwrap();
        assert_eq!(added, Added { id: id("heroku-24-v3"), new: false });
        host.stacks.prepare(None).await.unwrap();
        host.stacks.remove(&id("heroku-24-v3")).await.unwrap();
        // the manifest of today still is known, but the stack cannot be had
        let error = host.stacks.prepare(None).await.unwrap_err();
        assert!(matches!(error, StackError::Fetch(_)), "{error}");
        assert_eq!(host.names(), [".manifest.json"]);
        host.wait_no_loop_device();
    });
}

#[test]
fn a_release_without_a_stack_needs_one_that_is_meant() {
    test(async || {
        let host = Host::new(None);
        let error = host.stacks.prepare(None).await.unwrap_err().to_string();
        assert!(error.contains("hsup stack add"), "{error}");
        let error = host.stacks.prepare(Some(&name("heroku-24"))).await.unwrap_err().to_string();
        assert!(error.contains("hsup stack add heroku-24-VERSION"), "{error}");
        let location = host.put("stack.tgz", &tarball(&["usr/bin/sh"]));
        for stack in ["a-1", "a-2"] {
            host.stacks.add(&id(stack), &location, None).await.unwrap();
        }
        assert_eq!(host.stacks.prepare(None).await.unwrap().id, id("a-2"));
        host.stacks.add(&id("b-1"), &location, None).await.unwrap();
        let error = host.stacks.prepare(None).await.unwrap_err().to_string();
        assert!(error.contains("name one of a, b"), "{error}");
    });
}

#[test]
fn a_call_may_be_dropped_at_any_point() {
    test(async || {
        let host = Host::new(None);
        let location = host.image("ext4");
        let stack = id("x-1");
        for polls in 1..12 {
            let mut call = Box::pin(host.stacks.add(&stack, &location, None));
            let mut left = polls;
            std::future::poll_fn(|context| {
                left -= 1;
                let done = call.as_mut().poll(context).is_ready();
                if done || left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        match host.stacks.add(&stack, &location, None).await {
            Ok(()) | Err(StackError::AlreadyHere { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        drop(host.stacks.prepare(None).await.unwrap());
        host.stacks.remove(&stack).await.unwrap();
        assert_eq!(host.names(), [""; 0]);
        host.wait_no_loop_device();
    });
}
