//! Files and uploads: kept, listed, read back byte for byte, their owner's alone, and gone when they have ended.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_policy::id::TenantId;
use penstock_service::config::Timing;
use penstock_service::ports::{BlobKey, Clock};
use penstock_service::{Lane, contents_of};
use penstock_sim::World;
use serde_json::{Value, json};
use tower::ServiceExt;

const HOUR: Duration = Duration::from_secs(3600);

/// More than one segment, and no whole number of them.
const LARGE: usize = 9 << 20;

struct Kept {
    world: World,
    key: String,
}

impl Kept {
    fn new(seed: u64) -> Self {
        let world = World::new(seed, Timing::default(), World::wide_limits().unwrap()).unwrap();
        let key = world.key.clone();
        Self { world, key }
    }

    fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> (StatusCode, Bytes) {
        let request = request.header("authorization", format!("Bearer {}", self.key)).body(body.into()).unwrap();
        let answer = Arc::new(Mutex::new(None));
        let (router, place) = (penstock_service::router(Arc::clone(&self.world.service)), Arc::clone(&answer));
        self.world.client(async move {
            let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
            *place.lock().unwrap() = Some((parts.status, body.collect().await.unwrap().to_bytes()));
        });
        let until = self.world.kernel.now().after(Duration::from_secs(60));
        self.world.kernel.run_until(until, || answer.lock().unwrap().is_some());
        answer.lock().unwrap().take().unwrap()
    }

    fn json(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, bytes) = self.send(Request::builder().method(method).uri(path), body);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> (StatusCode, Value) {
        self.json(Method::GET, path, &Value::Null)
    }

    /// Sends a form whose body comes in pieces.
    fn form(&self, path: &str, fields: &[(&str, &str)], named: &str, content: &[u8]) -> (StatusCode, Value) {
        let mut body = Vec::new();
        for (name, value) in fields {
            let head = format!("--X\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            body.extend_from_slice(head.as_bytes());
        }
        let head = format!("--X\r\ncontent-disposition: form-data; name=\"{named}\"; filename=\"dir/a.jsonl\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n--X--\r\n");
        let pieces: Vec<std::io::Result<Bytes>> =
            body.chunks(70_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let request =
            Request::builder().method(Method::POST).uri(path).header("content-type", "multipart/form-data; boundary=X");
        let (status, bytes) = self.send(request, Body::from_stream(futures_util::stream::iter(pieces)));
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    fn keep(&self, content: &[u8]) -> String {
        let (status, file) = self.form("/v1/files", &[("purpose", "user_data")], "file", content);
        assert_eq!(status, StatusCode::OK, "{file}");
        file["id"].as_str().unwrap().to_owned()
    }

    fn pass(&self, time: Duration) {
        let until = self.world.kernel.now().after(time);
        self.world.kernel.run_until(until, || false);
        let service = Arc::clone(&self.world.service);
        let done = service.do_errands(Lane::Short, until.after(HOUR)).now_or_never().unwrap().unwrap();
        assert_eq!(done.failed, 0);
    }

    fn has_segment(&self, of: &str) -> bool {
        let tenant = TenantId::new("tenant").unwrap();
        let key = BlobKey::new(&format!("{}{of}-0", contents_of(&tenant))).unwrap();
        self.world.service.ports().blobs.get(&key).now_or_never().unwrap().unwrap().is_some()
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn a_file_reads_back_as_it_was_sent_until_it_is_deleted() {
    let kept = Kept::new(1);
    let content = noise(LARGE);
    let id = kept.keep(&content);
    let (_, file) = kept.get(&format!("/v1/files/{id}"));
    assert_eq!((file["bytes"].as_u64(), &file["filename"]), (Some(LARGE as u64), &json!("a.jsonl")));
    let read = kept.send(Request::builder().uri(format!("/v1/files/{id}/content")), Body::empty());
    assert_eq!(read.0, StatusCode::OK);
    assert!(read.1 == content, "the content is another");
    let (_, deleted) = kept.json(Method::DELETE, &format!("/v1/files/{id}"), &Value::Null);
    assert_eq!(deleted, json!({"id": id, "object": "file", "deleted": true}));
    assert_eq!(kept.get(&format!("/v1/files/{id}")).0, StatusCode::NOT_FOUND);
    assert!(!kept.has_segment(&id));
}

#[test]
fn nobody_sees_another_tenant_s_files() {
    let mut kept = Kept::new(2);
    let id = kept.keep(b"secret");
    kept.key = kept.world.add_tenant("other", |_| {}).unwrap();
    for (method, path) in [
        (Method::GET, format!("/v1/files/{id}")),
        (Method::GET, format!("/v1/files/{id}/content")),
        (Method::DELETE, format!("/v1/files/{id}")),
    ] {
        assert_eq!(kept.json(method, &path, &Value::Null).1["error"]["code"], "file_not_found", "{path}");
    }
    assert_eq!(kept.get("/v1/files").1["data"], json!([]));
}

#[test]
fn files_are_listed_newest_first_page_by_page_and_by_purpose() {
    let kept = Kept::new(3);
    let mut ids: Vec<String> = (0..5)
        .map(|n| {
            kept.pass(Duration::from_millis(10));
            kept.keep(format!("{n}").as_bytes())
        })
        .collect();
    let (_, batch) = kept.form("/v1/files", &[("purpose", "batch")], "file", b"{}");
    ids.reverse();
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = kept.get(&format!("/v1/files?limit=2&purpose=user_data{after}"));
        let data = page["data"].as_array().unwrap();
        seen.extend(data.iter().map(|file| file["id"].as_str().unwrap().to_owned()));
        assert_eq!(page["last_id"].as_str(), seen.last().map(String::as_str));
        if page["has_more"] == json!(false) {
            break;
        }
        after = format!("&after={}", seen.last().unwrap());
    }
    assert_eq!(seen, ids);
    let (_, page) = kept.get("/v1/files?order=asc&limit=1&purpose=batch");
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&batch["id"], &json!(false)));
}

#[test]
fn a_file_that_is_to_go_by_itself_goes_with_its_content() {
    let kept = Kept::new(4);
    let fields = [("purpose", "batch"), ("expires_after[anchor]", "created_at"), ("expires_after[seconds]", "3600")];
    let (_, file) = kept.form("/v1/files", &fields, "file", b"{}\n");
    let id = file["id"].as_str().unwrap();
    assert_eq!(file["expires_at"].as_i64().unwrap() - file["created_at"].as_i64().unwrap(), 3600);
    kept.pass(HOUR / 2);
    assert_eq!(kept.get(&format!("/v1/files/{id}")).0, StatusCode::OK);
    kept.pass(HOUR);
    assert_eq!(kept.get(&format!("/v1/files/{id}")).0, StatusCode::NOT_FOUND);
    assert!(!kept.has_segment(id));
}

#[test]
fn forms_that_make_no_file_are_refused_and_leave_nothing_behind() {
    let kept = Kept::new(5);
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c str, &'c [u8], &'c str);
    let cases: [Case<'_>; 5] = [
        (&[], "file", b"x", "purpose"),
        (&[("purpose", "batch_output")], "file", b"x", "purpose"),
        (&[("purpose", "batch")], "other", b"x", "file"),
        (&[("purpose", "batch")], "file", b"", "file"),
        (&[("purpose", "batch"), ("expires_after[seconds]", "3600")], "file", b"x", "expires_after"),
    ];
    for (fields, named, content, param) in cases {
        let (status, refused) = kept.form("/v1/files", fields, named, content);
        assert_eq!((status, &refused["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(param)), "{fields:?}");
    }
    let (status, refused) = kept.json(Method::POST, "/v1/files", &json!({}));
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_body")));
    assert_eq!(kept.get("/v1/files").1["data"], json!([]));
    kept.pass(HOUR * 3);
    let next =
        kept.world.service.do_errands(Lane::Short, kept.world.kernel.now()).now_or_never().unwrap().unwrap().next;
    assert_eq!(next, None, "what was written is looked after once and then forgotten");
}

#[test]
fn an_upload_becomes_a_file_of_its_parts_in_the_order_given() {
    let kept = Kept::new(6);
    let content = noise(LARGE);
    let ask = json!({"bytes": LARGE, "filename": "b.jsonl", "mime_type": "text/jsonl", "purpose": "batch"});
    let (_, upload) = kept.json(Method::POST, "/v1/uploads", &ask);
    let id = upload["id"].as_str().unwrap();
    let (first, second) = content.split_at(LARGE / 2 - 7);
    let part = |content: &[u8]| {
        let (status, part) = kept.form(&format!("/v1/uploads/{id}/parts"), &[], "data", content);
        assert_eq!(status, StatusCode::OK, "{part}");
        part["id"].as_str().unwrap().to_owned()
    };
    let (late, lost, early) = (part(second), part(b"not a part of it in the end"), part(first));
    let complete = |body: &Value| kept.json(Method::POST, &format!("/v1/uploads/{id}/complete"), body);
    let (_, refused) = complete(&json!({"part_ids": [early]}));
    assert_eq!(refused["error"]["param"], "part_ids");
    let (_, refused) = complete(&json!({"part_ids": [late, early], "md5": "0".repeat(32)}));
    assert_eq!(refused["error"]["param"], "md5");
    let body = json!({"part_ids": [early, late]});
    let (status, completed) = complete(&body);
    assert_eq!((status, &completed["status"]), (StatusCode::OK, &json!("completed")));
    assert_eq!(complete(&body).1["file"], completed["file"], "asked again, it is the same file");
    kept.pass(HOUR * 3);
    assert!(!kept.has_segment(&lost), "the part that nobody named stays");
    let file = completed["file"]["id"].as_str().unwrap();
    let read = kept.send(Request::builder().uri(format!("/v1/files/{file}/content")), Body::empty());
    assert!(read.1 == content, "the content is another");
    let (status, _) = kept.json(Method::DELETE, &format!("/v1/files/{file}"), &Value::Null);
    assert_eq!(status, StatusCode::OK);
    assert!(!kept.has_segment(&early) && !kept.has_segment(&late));
}

#[test]
fn an_upload_that_is_cancelled_or_left_unfinished_takes_no_more_and_is_removed() {
    let kept = Kept::new(7);
    for cancel in [true, false] {
        let ask = json!({"bytes": 3, "filename": "c", "mime_type": "text/plain", "purpose": "user_data"});
        let (_, upload) = kept.json(Method::POST, "/v1/uploads", &ask);
        let id = upload["id"].as_str().unwrap();
        let (_, part) = kept.form(&format!("/v1/uploads/{id}/parts"), &[], "data", b"abc");
        let part = part["id"].as_str().unwrap();
        if cancel {
            let (_, cancelled) = kept.json(Method::POST, &format!("/v1/uploads/{id}/cancel"), &Value::Null);
            assert_eq!(cancelled["status"], "cancelled");
        } else {
            kept.pass(HOUR);
        }
        kept.pass(Duration::from_secs(1));
        assert!(!kept.has_segment(part), "cancelled: {cancel}");
        let (status, refused) = kept.form(&format!("/v1/uploads/{id}/parts"), &[], "data", b"abc");
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("upload_closed")));
        let complete = kept.json(Method::POST, &format!("/v1/uploads/{id}/complete"), &json!({"part_ids": [part]}));
        assert_eq!(complete.0, StatusCode::CONFLICT);
    }
}
