//! Who may use a server: what a web page, another name of the server and a wrong key are told, on every route.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::support::command::Workplace;
use crate::support::server::{Server, TIMEOUT, init};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const RESET: &str = "/reset_prefix_cache";
/// Routes by method, whether they read JSON, and whether they change the server for all.
const ROUTES: [(&str, &str, bool, bool); 23] = [
    ("GET", "/health", false, false),
    ("GET", "/ping", false, false),
    ("GET", "/version", false, false),
    ("GET", "/metrics", false, false),
    ("GET", "/v1/models", false, false),
    ("GET", "/v1/models/tiny", false, false),
    ("GET", "/server_info", false, false),
    ("GET", "/get_world_size", false, false),
    ("POST", CHAT, true, false),
    ("POST", TEXT, true, false),
    ("POST", "/tokenize", true, false),
    ("POST", "/detokenize", true, false),
    ("POST", "/v1/chat/completions/render", true, false),
    ("POST", "/inference/v1/generate", true, false),
    ("POST", "/update_weights", true, true),
    ("POST", "/update_weights_from_disk", true, true),
    ("POST", RESET, false, true),
    ("POST", "/init_weight_transfer_engine", false, true),
    ("POST", "/start_weight_update", false, true),
    ("POST", "/finish_weight_update", false, true),
    ("POST", "/init_communicator", false, true),
    ("POST", "/update_named_param", false, true),
    ("POST", "/close_communicator", false, true),
];

/// An answer's status, and its text in lower case.
struct Told {
    status: u16,
    text: String,
}

impl Told {
    /// A header, given in lower case.
    fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next().unwrap();
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request with these headers, byte for byte, and a body of a few values.
fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let headers: String = headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n{length}\r\n{body}").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("{method} {path} {headers}: {text}")).parse().unwrap();
    Told { status, text: text.to_lowercase() }
}

/// What is sent to a route that reads JSON: never something that changes a server.
fn body(is_json: bool) -> &'static str {
    if is_json { "{\"prompt\": 1, \"tokens\": 1, \"token_ids\": 1, \"messages\": 1, \"weight_dir\": 1}" } else { "" }
}

#[test]
fn every_route_refuses_pages_of_foreign_origins_and_foreign_names() {
    let server = Server::start(&[]);
    let own = format!("http://{}", server.address);
    let other_port = "http://127.0.0.1:1";
    for (method, path, is_json, _) in ROUTES {
        let kind = ("Content-Type", "application/json");
        let ask = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = headers.iter().copied().chain(is_json.then_some(kind)).collect();
            let told = send(&server, method, path, &headers, body(is_json));
            assert_eq!(told.header("access-control-allow-origin"), None, "{method} {path} {headers:?}");
            told.status
        };
        let host = ("Host", server.address.as_str());
        for headers in [
            &[host][..],
            &[host, ("Origin", &own)],
            &[("Host", "localhost")],
            &[("Host", "LOCALHOST:1234")],
            &[("Host", "models.localhost")],
            &[("Host", "127.1.2.3:80")],
            &[("Host", "[::1]:80"), ("Origin", "http://[::1]")],
            &[host, ("Sec-Fetch-Site", "same-origin")],
            &[host, ("Sec-Fetch-Site", "none")],
        ] {
            assert!(![403, 415].contains(&ask(headers)), "{method} {path} {headers:?}");
        }
        for origin in [
            "http://evil.example",
            "https://evil.example:8000",
            "null",
            "",
            "http://localhost.evil.example",
            other_port,
            "file://",
            "chrome-extension://abcdef",
            "\u{e9}",
        ] {
            assert_eq!(ask(&[host, ("Origin", origin)]), 403, "{method} {path} {origin}");
        }
        assert_eq!(ask(&[host, ("Origin", &own), ("Origin", "http://evil.example")]), 403, "{method} {path}");
        // A name that somebody gave to this machine's address.
        for name in
            ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"]
        {
            assert_eq!(ask(&[("Host", name)]), 403, "{method} {path} {name}");
            let origin = format!("http://{name}");
            assert_eq!(ask(&[("Host", name), ("Origin", &origin)]), 403, "{method} {path} {name}");
        }
        for name in ["", "a b", "localhost:99999", "localhost@evil.example", "[::1"] {
            assert!([400, 403].contains(&ask(&[("Host", name)])), "{method} {path} {name:?}");
        }
        assert_eq!(ask(&[host, ("Host", "evil.example")]), 400, "{method} {path}");
        let whole = |url: String| send(&server, method, &url, &[host, kind], body(is_json)).text;
        let is_refused = |text: String| text.contains("names another host");
        assert!(is_refused(whole(format!("http://evil.example{path}"))), "{method} {path}");
        assert!(!is_refused(whole(format!("{own}{path}"))), "{method} {path}");
        for site in ["cross-site", "same-site"] {
            let status = ask(&[host, ("Sec-Fetch-Site", site)]);
            assert_eq!(status == 403, method == "POST", "{method} {path} {site}");
        }
        let preflight = [host, ("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST")];
        let told = send(&server, "OPTIONS", path, &preflight, "");
        assert_eq!((told.status, told.header("access-control-allow-origin")), (403, None), "{path}");
    }
}

#[test]
fn bodies_must_be_said_to_be_json() {
    let server = Server::start(&[]);
    let host = ("Host", server.address.as_str());
    for (method, path, is_json, _) in ROUTES.into_iter().filter(|(method, ..)| *method == "POST") {
        for kind in
            ["application/json", "APPLICATION/JSON; charset=utf-8", "application/vnd.api+json", "application/json;a=b"]
        {
            let told = send(&server, method, path, &[host, ("Content-Type", kind)], body(is_json));
            assert!(![403, 415].contains(&told.status), "{path} {kind}: {}", told.text);
        }
        if !is_json && path != RESET {
            continue;
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=application/json",
            "text/plain; application/json",
            "application/jsonp",
            "application/+json",
            "application/json, text/plain",
            "",
        ] {
            let told = send(&server, method, path, &[host, ("Content-Type", kind)], body(is_json));
            assert_eq!(told.status, 415, "{path} {kind}");
            assert!(told.text.contains("curl: -h 'content-type: application/json'"), "{}", told.text);
        }
        assert_eq!(send(&server, method, path, &[host], "{}").status, 415, "{path}");
        let both = [host, ("Content-Type", "application/json"), ("Content-Type", "text/plain")];
        assert_eq!(send(&server, method, path, &both, "{}").status, 415, "{path}");
    }
    assert_eq!(send(&server, "POST", RESET, &[host], "").status, 200);
}

#[test]
fn allowed_origins_may_use_what_changes_nothing() {
    let named = "[\"https://app.example:8443\", \"http://ui.example/\"]";
    for (arguments, is_any) in [
        (&["--allowed-origins", named][..], false),
        (&["--allowed-origins", "https://app.example:8443,http://ui.example"], false),
        (&["--allowed-origins", "http://ui.example", "--allowed-origins", "https://APP.example:8443"], false),
        (&["--allowed-origins", "*"], true),
        (&["--allowed-origins", "[\"*\"]", "--api-key", "sk-right"], true),
    ] {
        let server = Server::start(arguments);
        let host = ("Host", server.address.as_str());
        let kind = ("Content-Type", "application/json");
        for (method, path, is_json, is_admin) in ROUTES {
            for (origin, is_allowed) in [
                ("https://app.example:8443", !is_admin),
                ("http://ui.example", !is_admin),
                ("http://evil.example", !is_admin && is_any),
                ("null", !is_admin && is_any),
                ("https://app.example", !is_admin && is_any),
            ] {
                let shown = is_allowed.then_some(if is_any { "*" } else { origin });
                let site = ("Sec-Fetch-Site", "cross-site");
                let key = ("Authorization", "bearer sk-right");
                let told = send(&server, method, path, &[host, ("Origin", origin), site, kind, key], body(is_json));
                assert_eq!(told.status == 403, !is_allowed, "{method} {path} {origin}");
                assert_eq!(told.header("access-control-allow-origin"), shown, "{method} {path} {origin}");
                assert_eq!(told.header("vary"), Some("origin"));
                // A browser asks first, without the key.
                let preflight = [
                    host,
                    ("Origin", origin),
                    ("Access-Control-Request-Method", method),
                    ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
                    ("Access-Control-Request-Private-Network", "true"),
                ];
                let told = send(&server, "OPTIONS", path, &preflight, "");
                assert_eq!(told.status, if is_allowed { 204 } else { 403 }, "{path} {origin}");
                assert_eq!(told.header("access-control-allow-origin"), shown);
                if is_allowed {
                    let allowed = told.header("access-control-allow-headers");
                    assert_eq!(allowed, Some("authorization,content-type,x-stainless-os"));
                    assert!(told.header("access-control-allow-methods").unwrap().contains("post"));
                    assert_eq!(told.header("access-control-max-age"), Some("600"));
                    assert_eq!(told.header("access-control-allow-private-network"), Some("true"));
                }
            }
            let cross_site = [host, ("Sec-Fetch-Site", "cross-site"), kind, ("Authorization", "Bearer sk-right")];
            let status = send(&server, method, path, &cross_site, body(is_json)).status;
            assert_eq!(status == 403, method == "POST", "{method} {path}");
        }
    }
}

#[test]
fn a_server_on_other_addresses_goes_by_any_name_unless_it_is_told_its_own() {
    let any = Server::start(&["--host", "0.0.0.0"]);
    let named = Server::start(&["--allowed-hosts", "models.example:8000,gpu-box", "--allowed-hosts", "[fd00::1]"]);
    let kind = ("Content-Type", "application/json");
    for (server, host, origin, status) in [
        (&any, "models.example", None, 200),
        (&any, "10.0.0.1:8000", Some("http://10.0.0.1:8000"), 200),
        // Any page could have given its name to the address.
        (&any, "evil.example:8000", Some("http://evil.example:8000"), 403),
        (&named, "models.example:8000", Some("https://models.example:8000"), 200),
        (&named, "models.example:8000", None, 200),
        (&named, "gpu-box:1", None, 200),
        (&named, "[fd00::1]:8000", None, 200),
        (&named, "localhost", None, 200),
        (&named, "models.example", None, 403),
        (&named, "evil.example", None, 403),
    ] {
        let origin = origin.map(|origin| ("Origin", origin));
        let headers: Vec<_> = [Some(("Host", host)), origin, Some(kind)].into_iter().flatten().collect();
        assert_eq!(send(server, "POST", RESET, &headers, "").status, status, "{headers:?}");
    }
}

#[test]
fn flags_of_access_that_cannot_hold_are_errors() {
    let workplace = Workplace::new();
    init(&workplace, "tiny", 0);
    let run = |arguments: &[&str], key: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thyme-engine"));
        command.arg("serve").arg(workplace.path("tiny")).args(["--port", "0"]).args(arguments);
        command.envs(key.map(|key| ("THYME_API_KEY", key)));
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (arguments, key, says_so) in [
        (&["--api-key", ""][..], None, "--api-key (or THYME_API_KEY) is empty"),
        (&["--api-key", "a", "--api-key", ""], None, "--api-key (or THYME_API_KEY) is empty"),
        (&[], Some(""), "--api-key (or THYME_API_KEY) is empty"),
        (&["--api-key", " a"], None, "white space"),
        (&[], Some("a\n"), "white space"),
        (&["--allowed-origins", "evil.example"], None, "--allowed-origins: \"evil.example\" is no origin"),
        (&["--allowed-origins", "null"], None, "--allowed-origins: \"null\" is no origin"),
        (&["--allowed-origins", ""], None, "--allowed-origins: \"\" is no origin"),
        (&["--allowed-origins", "[\"http://a\", 1]"], None, "--allowed-origins is"),
        (&["--allowed-origins", "http://a/path"], None, "--allowed-origins: \"http://a/path\" is no origin"),
        (&["--allowed-hosts", "http://a"], None, "--allowed-hosts: \"http://a\" is no host"),
        (&["--allowed-hosts", ""], None, "--allowed-hosts: \"\" is no host"),
    ] {
        let said = run(arguments, key);
        assert!(said.contains(says_so), "{arguments:?} {key:?}: {said}");
    }
}

#[test]
fn any_of_several_keys_lets_in() {
    let server = Server::start(&["--api-key", "sk-one", "--api-key", "sk-two"]);
    let host = ("Host", server.address.as_str());
    for (key, status) in [
        ("Bearer sk-one", 200),
        ("bearer sk-two", 200),
        ("Bearer sk-three", 401),
        ("Bearer ", 401),
        ("sk-one", 401),
        ("Bearer sk-one ", 200),
        ("Basic sk-one", 401),
    ] {
        assert_eq!(send(&server, "GET", "/v1/models", &[host, ("Authorization", key)], "").status, status, "{key}");
    }
    assert_eq!(send(&server, "GET", "/v1/models", &[host], "").status, 401);
    assert_eq!(send(&server, "GET", "/health", &[host], "").status, 200);
}
