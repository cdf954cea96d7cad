//! Logging in: agents, keys of all kinds, passwords; and what the user's own ssh configuration says.

mod sftp_support;

use std::fs;
use std::path::Path;

use plakar_core::plugin::PluginError;
use plakar_core::storage::StorageErrorKind;
use plakar_testkit::proxy::Proxy;
use plakar_testkit::sshd::{Agent, PASSWORD, PasswordMethod, Sshd, SshdOptions, generate_key, sign};
use plakar_testkit::{Lab, Output, text};
use sftp_support::{built, open, put, refused, try_open, with};

#[test]
fn keys_of_all_kinds_let_in() {
    let server = Sshd::start();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = server.path(&format!("key-{kind}"));
        generate_key(&key, kind, "");
        let settings = with(&server.settings(), &[("identity_file", text(&key))]);
        let (_, message) = refused(&server.url(&server.data()), &settings);
        assert!(message.contains(text(&key)), "{message}");
        server.authorize(&key.with_extension("pub"));
        open(&server.url(&server.data()), &settings)
            .list("", "", 1)
            .unwrap();
    }
}

#[test]
fn an_encrypted_key_wants_its_passphrase() {
    let server = Sshd::start();
    let key = server.path("encrypted");
    generate_key(&key, "ed25519", "open sesame");
    server.authorize(&server.path("encrypted.pub"));
    let location = server.url(&server.data());
    let without = with(&server.settings(), &[("identity_file", text(&key))]);
    let (kind, message) = refused(&location, &without);
    assert!(
        kind == StorageErrorKind::Auth && message.contains("identity_passphrase"),
        "{message}"
    );
    let (kind, message) = refused(
        &location,
        &with(&without, &[("identity_passphrase", "open barley")]),
    );
    assert!(
        kind == StorageErrorKind::Auth && message.contains("is identity_passphrase right?"),
        "{message}"
    );
    assert!(!message.contains("barley"), "{message}");
    open(
        &location,
        &with(&without, &[("identity_passphrase", "open sesame")]),
    )
    .list("", "", 1)
    .unwrap();
}

#[test]
fn a_certificate_beside_a_key_lets_in() {
    let server = Sshd::start();
    let (authority, key) = (server.path("users"), server.path("certified"));
    generate_key(&authority, "ed25519", "");
    generate_key(&key, "ed25519", "");
    let user = rustix_user();
    sign(&authority, &key, &["-n", &user, "-V", "-1h:+1h"]);
    let line = format!(
        "cert-authority {}",
        fs::read_to_string(server.path("users.pub")).unwrap()
    );
    fs::write(server.path("authorized_keys"), line).unwrap();
    let settings = with(&server.settings(), &[("identity_file", text(&key))]);
    open(&server.url(&server.data()), &settings)
        .list("", "", 1)
        .unwrap();
    fs::remove_file(server.path("certified-cert.pub")).unwrap();
    refused(&server.url(&server.data()), &settings);
}

fn rustix_user() -> String {
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn who_is_refused_is_told_what_was_tried() {
    let server = Sshd::start();
    let stranger = server.path("stranger");
    generate_key(&stranger, "ed25519", "");
    let settings = with(
        &server.settings(),
        &[("identity_file", text(&stranger)), ("password", "swordfish")],
    );
    let (kind, message) = refused(&server.url(&server.data()), &settings);
    assert_eq!(kind, StorageErrorKind::Auth);
    assert!(
        message.contains(text(&stranger)) && message.contains("publickey"),
        "{message}"
    );
    assert!(!message.contains("swordfish"), "{message}");
}

#[test]
fn a_connection_that_breaks_during_the_login_is_not_a_refusal() {
    let server = Sshd::start();
    let proxy = Proxy::to(server.port());
    let location = server.url_at(proxy.port(), &server.data());
    let mut broken = 0;
    // Somewhere on this way the keys are exchanged and the login is under way.
    for bytes in (0..6000).step_by(200) {
        proxy.drop_after(bytes);
        match try_open(&location, &server.settings_at(proxy.port())) {
            Err(PluginError::Open { kind, message, .. }) => {
                assert_eq!(
                    kind,
                    StorageErrorKind::Transient,
                    "after {bytes} bytes: {message}"
                );
                broken += usize::from(message.contains("while logging in"));
            }
            Err(other) => panic!("{other}"),
            Ok(_) => {}
        }
    }
    assert!(broken > 0, "no login was broken");
}

#[test]
fn a_key_that_was_named_comes_before_those_of_the_agent() {
    let server = Sshd::with(SshdOptions {
        lines: vec!["MaxAuthTries 2".into()],
        ..SshdOptions::default()
    });
    let strangers: Vec<_> = (0..3)
        .map(|number| {
            let key = server.path(&format!("stranger-{number}"));
            generate_key(&key, "ed25519", "");
            key
        })
        .collect();
    let agent = Agent::with_key(&strangers[0]);
    strangers[1..].iter().for_each(|key| agent.add(key, &[]));
    let socket = agent.socket();
    let environment: [(&str, &Path); 1] = [("SSH_AUTH_SOCK", &socket)];
    let location = server.url(&server.data().join("seven"));
    let output = Home::new("").knows(&server).create(&location, &environment);
    assert_eq!(output.code, Some(77), "{output:?}");
    assert!(
        output.stderr.contains("Too many authentication failures")
            && output.stderr.contains("agent key SHA256:"),
        "{output:?}"
    );
    let config = format!("IdentityFile {}\n", server.identity().display());
    worked(&Home::new(&config).knows(&server).create(&location, &environment));
}

#[test]
fn a_key_that_the_agent_gives_to_one_server_only_lets_in_there() {
    let (server, other) = (Sshd::start(), Sshd::start());
    other.authorize(&server.path("identity.pub"));
    let known = server.known_hosts(server.port());
    let to = format!("[127.0.0.1]:{}", server.port());
    let agent = Agent::without_keys();
    agent.add(&server.identity(), &["-h", &to, "-H", text(&known)]);
    let socket = agent.socket();
    let environment: [(&str, &Path); 1] = [("SSH_AUTH_SOCK", &socket)];
    let home = Home::new("").knows(&server).knows(&other);
    worked(&home.create(&server.url(&server.data().join("eight")), &environment));
    let output = home.create(&other.url(&other.data().join("eight")), &environment);
    assert_eq!(output.code, Some(77), "{output:?}");
}

#[test]
fn a_server_may_want_several_proofs_in_its_own_order() {
    for (order, password) in [
        ("password,publickey", PasswordMethod::Plain),
        ("publickey,password", PasswordMethod::Plain),
        ("keyboard-interactive,publickey", PasswordMethod::Interactive),
    ] {
        let server = Sshd::with(SshdOptions {
            password: Some(password),
            first_lines: vec![
                "PubkeyAuthentication yes".into(),
                format!("AuthenticationMethods {order}"),
            ],
            ..SshdOptions::default()
        });
        let location = server.url(&server.data());
        let both = with(&server.settings(), &[("identity_file", text(&server.identity()))]);
        open(&location, &both).list("", "", 1).unwrap();
        let (kind, message) = refused(&location, &server.settings());
        assert!(kind == StorageErrorKind::Auth, "{order}: {message}");
        let wrong = with(&both, &[("password", "swordfish")]);
        let (kind, message) = refused(&location, &wrong);
        assert!(kind == StorageErrorKind::Auth, "{order}: {message}");
    }
}

fn with_password(method: PasswordMethod, how: &str) {
    let server = Sshd::with(SshdOptions {
        password: Some(method),
        ..SshdOptions::default()
    });
    let location = server.url(&server.data());
    open(&location, &server.settings()).list("", "", 1).unwrap();
    let (kind, message) = refused(&location, &with(&server.settings(), &[("password", "swordfish")]));
    assert!(
        kind == StorageErrorKind::Auth && message.contains(how),
        "{message}"
    );
    assert!(
        !message.contains("swordfish") && !message.contains(PASSWORD),
        "{message}"
    );
    let mut nothing = server.settings();
    nothing.remove("password");
    refused(&location, &nothing);
}

#[test]
fn a_password_lets_in() {
    with_password(PasswordMethod::Plain, "the password");
}

#[test]
fn a_password_answers_an_interactive_server() {
    with_password(PasswordMethod::Interactive, "keyboard-interactive");
}

/// A home whose `ssh` configuration is this, with a program that finds the connector.
struct Home(Lab);

impl Home {
    fn new(config: &str) -> Self {
        let lab = Lab::new();
        let ssh = lab.path("home/.ssh");
        fs::create_dir_all(&ssh).unwrap();
        fs::write(ssh.join("config"), config).unwrap();
        built();
        Self(lab)
    }

    fn knows(self, server: &Sshd) -> Self {
        let file = self.0.path("home/.ssh/known_hosts");
        let mut known = fs::read_to_string(&file).unwrap_or_default();
        known.push_str(&fs::read_to_string(server.known_hosts(server.port())).unwrap());
        fs::write(file, known).unwrap();
        self
    }

    /// Creates a repository: whether and why not is in the output.
    fn create(&self, location: &str, environment: &[(&str, &Path)]) -> Output {
        let mut run = self.0.plain(["at", location, "create", "-no-encryption"]);
        for (name, value) in environment {
            run = run.env(name, value);
        }
        run.output()
    }
}

#[track_caller]
fn worked(output: &Output) {
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[test]
fn an_agent_lets_in_unless_it_is_switched_off() {
    let server = Sshd::start();
    let agent = Agent::with_key(&server.identity());
    let home = Home::new("").knows(&server);
    let location = server.url(&server.data().join("one"));
    let without = home.create(&location, &[]);
    assert!(without.stderr.contains("nothing to offer"), "{without:?}");
    worked(&home.create(&location, &[("SSH_AUTH_SOCK", &agent.socket())]));
}

#[test]
fn identities_only_keeps_other_keys_of_the_agent_back() {
    let server = Sshd::start();
    let agent = Agent::with_key(&server.identity());
    let stranger = server.path("stranger");
    generate_key(&stranger, "ed25519", "");
    let config = |key: &Path| {
        format!(
            "Host 127.0.0.1\n IdentitiesOnly yes\n IdentityFile {}\n",
            key.display()
        )
    };
    let socket = agent.socket();
    let agent_at: [(&str, &Path); 1] = [("SSH_AUTH_SOCK", &socket)];
    let location = server.url(&server.data().join("two"));
    let output = Home::new(&config(&stranger))
        .knows(&server)
        .create(&location, &agent_at);
    assert!(output.stderr.contains("does not let"), "{output:?}");
    // The private half is with the agent alone.
    let public = server.path("only.pub");
    fs::copy(server.path("identity.pub"), &public).unwrap();
    worked(
        &Home::new(&config(&server.path("only")))
            .knows(&server)
            .create(&location, &agent_at),
    );
}

#[test]
fn the_ssh_configuration_names_host_port_user_and_key() {
    let server = Sshd::start();
    let home = Home::new("Include config.d/*\nHost *\n User nobody-at-all\n").knows(&server);
    let folder = home.0.path("home/.ssh/config.d");
    fs::create_dir(&folder).unwrap();
    let config = format!(
        "Host nas\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {}\nMatch exec false\n Port 1\n",
        server.port(),
        rustix_user(),
        server.identity().display()
    );
    fs::write(folder.join("nas"), config).unwrap();
    worked(&home.create(&format!("sftp://nas{}/three", server.data().display()), &[]));
    assert!(server.data().join("three/config").exists() || server.data().join("three").is_dir());
}

#[test]
fn hosts_are_reached_through_other_hosts() {
    let (gate, second_gate, inner) = (Sshd::start(), Sshd::start(), Sshd::start());
    let entry = |name: &str, server: &Sshd, more: &str| {
        let (port, key) = (server.port(), server.identity());
        format!(
            "Host {name}\n HostName 127.0.0.1\n Port {port}\n IdentityFile {}\n{more}",
            key.display()
        )
    };
    let config = entry("gate", &gate, "")
        + &entry("second", &second_gate, "")
        + &entry("inner", &inner, " ProxyJump gate,second\n");
    let location = format!("sftp://inner{}/four", inner.data().display());
    let home = Home::new(&config).knows(&gate).knows(&second_gate).knows(&inner);
    worked(&home.create(&location, &[]));
    assert!(gate.logins() > 0 && second_gate.logins() > 0 && inner.logins() > 0);
    // Each host on the way must be known.
    let output = Home::new(&config)
        .knows(&gate)
        .knows(&inner)
        .create(&location, &[]);
    assert!(
        output.stderr.contains("not known") && output.stderr.contains(&second_gate.port().to_string()),
        "{output:?}"
    );
}

#[test]
fn a_host_on_the_way_that_forbids_it_is_named() {
    let inner = Sshd::start();
    let gate = Sshd::with(SshdOptions {
        lines: vec!["AllowTcpForwarding no".into()],
        ..SshdOptions::default()
    });
    let config = format!(
        "Host inner\n HostName 127.0.0.1\n Port {}\n ProxyJump 127.0.0.1:{}\nHost 127.0.0.1\n IdentityFile {}\n",
        inner.port(),
        gate.port(),
        gate.identity().display()
    );
    let home = Home::new(&config).knows(&gate).knows(&inner);
    let output = home.create(&format!("sftp://inner{}/nine", inner.data().display()), &[]);
    assert!(
        output.code == Some(77) && output.stderr.contains("forward connections"),
        "{output:?}"
    );
}

#[test]
fn hosts_are_reached_through_a_command() {
    let server = Sshd::start();
    let config = format!(
        "Host far\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\n ProxyCommand bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3'\n",
        server.port(),
        server.identity().display()
    );
    let home = Home::new(&config).knows(&server);
    worked(&home.create(&format!("sftp://far{}/five", server.data().display()), &[]));
}

#[test]
fn strict_checking_is_as_the_configuration_says() {
    let server = Sshd::start();
    let location = server.url(&server.data().join("six"));
    let config = |strict: &str, more: &str| {
        format!(
            "StrictHostKeyChecking {strict}\nHashKnownHosts no\nIdentityFile {}\n{more}",
            server.identity().display()
        )
    };
    let output = Home::new(&config("yes", "")).create(&location, &[]);
    assert!(output.stderr.contains("not known"), "{output:?}");
    let home = Home::new(&config(
        "accept-new",
        "HostKeyAlias nas\nUserKnownHostsFile ~/elsewhere/hosts\n",
    ));
    worked(&home.create(&location, &[]));
    let recorded = fs::read_to_string(home.0.path("home/elsewhere/hosts")).unwrap();
    assert_eq!(recorded, format!("nas {}\n", server.host_key("ed25519")));
}

#[test]
fn a_new_key_is_recorded_where_and_how_the_configuration_says() {
    let server = Sshd::start();
    let config = format!(
        "Host nas\n HostName 127.0.0.1\n Port {}\n IdentityFile \"{}\"\n StrictHostKeyChecking accept-new\n \
         HashKnownHosts yes\n UserKnownHostsFile '~/.ssh/hosts of %k'\nMatch exec \"sh -c \\\"a b\\\" \"\n Port 1\n",
        server.port(),
        server.identity().display()
    );
    let home = Home::new(&config);
    let location = format!("sftp://nas{}/ten", server.data().display());
    worked(&home.create(&location, &[]));
    let recorded = fs::read_to_string(home.0.path("home/.ssh/hosts of nas")).unwrap();
    assert!(
        recorded.starts_with("|1|") && recorded.trim_end().ends_with(&server.host_key("ed25519")),
        "{recorded}"
    );
}

#[test]
fn a_path_may_be_relative_and_have_any_letters() {
    let server = Sshd::start();
    let folder = server.path("data/with space and ünïcödé");
    let storage = open(&server.url(&folder), &server.settings());
    storage.init().unwrap();
    put(storage.as_ref(), "a/b", b"sealed").unwrap();
    assert_eq!(fs::read(folder.join("a/b")).unwrap(), b"sealed");
    let escaped = server.url(Path::new(
        &text(&folder).replace(' ', "%20").replace('ü', "%C3%BC"),
    ));
    assert_eq!(
        open(&escaped, &server.settings()).get("a/b", 0, 9).unwrap(),
        b"sealed"
    );
    // internal-sftp begins in the folder that it is told.
    let line = format!("ForceCommand internal-sftp -d {}", server.data().display());
    let confined = Sshd::with(SshdOptions {
        lines: vec![line],
        ..SshdOptions::default()
    });
    let relative = confined.url(Path::new("/./with space and ünïcödé"));
    assert_eq!(
        open(&relative, &confined.settings()).get("a/b", 0, 9).unwrap(),
        b"sealed"
    );
}
