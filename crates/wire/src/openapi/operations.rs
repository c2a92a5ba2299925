//! Every operation there is: the table that the document is written from, and that the router is tested against.

use schemars::Schema;
use schemars::generate::SchemaGenerator;

use crate::batches::Batch;
use crate::chat::Completion;
use crate::completions::TextCompletion;
use crate::embeddings::EmbeddingList;
use crate::explain::Explanation;
use crate::files::{File, FileDeleted, Page, Upload, UploadPart};
use crate::job::Job;
use crate::models::{Model, ModelList};
use crate::promises::PromiseList;
use crate::responses::{Deleted, InputItems, Response, ResponseEvent};
use crate::usage::UsageReport;

/// One operation.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// What the answer is.
    pub(super) told: &'static str,
    pub(super) needs_key: bool,
    pub(super) parameters: &'static [Parameter],
    /// Its body.
    pub(super) request: Option<Body>,
    pub(super) answers: &'static [Answer],
    /// The statuses it refuses with.
    pub(super) refusals: &'static [u16],
}

/// A body, by the name of its schema.
#[derive(Clone, Copy)]
pub(super) enum Body {
    Json(&'static str),
    Form(&'static str),
}

/// A form in which it answers.
pub(super) struct Answer {
    pub(super) media: &'static str,
    /// Of the whole body, or of each event's data in a stream.
    pub(super) schema: Option<fn(&mut SchemaGenerator) -> Schema>,
}

/// A parameter beside the body.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) meaning: &'static str,
    pub(super) schema: &'static str,
}

/// Where a parameter stands.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Path,
    Query,
    Header,
}

/// What asks a model for something.
pub(super) const INFERENCE: &str = "inference";
const LATER: &str = "later";
const KEPT: &str = "files";
const ABOUT: &str = "about";

const fn json(schema: fn(&mut SchemaGenerator) -> Schema) -> Answer {
    Answer { media: "application/json", schema: Some(schema) }
}

const fn events(schema: Option<fn(&mut SchemaGenerator) -> Schema>) -> Answer {
    Answer { media: "text/event-stream", schema }
}

const fn bytes() -> Answer {
    Answer { media: "application/octet-stream", schema: None }
}

const KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    meaning: "A name for the request: whatever bears it is the same request.",
    schema: r#"{"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"}"#,
};

const fn in_path(name: &'static str, meaning: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, meaning, schema: r#"{"type": "string", "minLength": 1}"# }
}

const fn in_query(name: &'static str, meaning: &'static str, schema: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, meaning, schema }
}

const ASKING: &[u16] = &[400, 401, 404, 409, 413, 415, 429, 500, 502, 503, 504];
const LOOKING: &[u16] = &[400, 401, 404, 500, 503];

const LISTING: &[u16] = &[400, 401, 500, 503];
const SENDING: &[u16] = &[400, 401, 413, 415, 429, 500, 503];
const SENDING_TO: &[u16] = &[400, 401, 404, 409, 413, 415, 500, 503];
const ORDER: Parameter =
    in_query("order", "Newest first, or oldest first.", r#"{"type": "string", "enum": ["asc", "desc"]}"#);

/// The table.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/chat/completions",
        id: "createChatCompletion",
        tag: INFERENCE,
        summary: "Answer a conversation",
        told: "The answer, or its pieces as they come, the last of them `[DONE]`.",
        needs_key: true,
        parameters: &[KEY],
        request: Some(Body::Json("ChatRequest")),
        answers: &[json(SchemaGenerator::subschema_for::<Completion>), events(None)],
        refusals: ASKING,
    },
    Operation {
        method: "post",
        path: "/v1/completions",
        id: "createCompletion",
        tag: INFERENCE,
        summary: "Continue prompts that no chat template touches",
        told: "The answer, or its pieces as they come, the last of them `[DONE]`.",
        needs_key: true,
        parameters: &[KEY],
        request: Some(Body::Json("CompletionRequest")),
        answers: &[json(SchemaGenerator::subschema_for::<TextCompletion>), events(None)],
        refusals: ASKING,
    },
    Operation {
        method: "post",
        path: "/v1/embeddings",
        id: "createEmbedding",
        tag: INFERENCE,
        summary: "Turn texts or token ids into vectors",
        told: "A vector for each input.",
        needs_key: true,
        parameters: &[KEY],
        request: Some(Body::Json("EmbeddingsRequest")),
        answers: &[json(SchemaGenerator::subschema_for::<EmbeddingList>)],
        refusals: ASKING,
    },
    Operation {
        method: "post",
        path: "/v1/responses",
        id: "createResponse",
        tag: INFERENCE,
        summary: "Make a response, at once or in the background",
        told: "The response, or its numbered events as they come.",
        needs_key: true,
        parameters: &[KEY],
        request: Some(Body::Json("ResponseRequest")),
        answers: &[
            json(SchemaGenerator::subschema_for::<Response>),
            events(Some(SchemaGenerator::subschema_for::<ResponseEvent>)),
        ],
        refusals: ASKING,
    },
    Operation {
        method: "get",
        path: "/v1/responses/{id}",
        id: "getResponse",
        tag: LATER,
        summary: "Look at a response, or take its stream up again",
        told: "The response as it stands, or its events after a number.",
        needs_key: true,
        parameters: &[
            in_path("id", "The response."),
            in_query("stream", "Stream its events.", r#"{"type": "boolean"}"#),
            in_query("starting_after", "The last event seen.", r#"{"type": "integer", "minimum": 0}"#),
        ],
        request: None,
        answers: &[
            json(SchemaGenerator::subschema_for::<Response>),
            events(Some(SchemaGenerator::subschema_for::<ResponseEvent>)),
        ],
        refusals: LOOKING,
    },
    Operation {
        method: "delete",
        path: "/v1/responses/{id}",
        id: "deleteResponse",
        tag: LATER,
        summary: "Remove a response; one in the background is cancelled first",
        told: "That it is removed.",
        needs_key: true,
        parameters: &[in_path("id", "The response.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Deleted>)],
        refusals: LOOKING,
    },
    Operation {
        method: "post",
        path: "/v1/responses/{id}/cancel",
        id: "cancelResponse",
        tag: LATER,
        summary: "Cancel a response in the background; one that has ended stays as it is",
        told: "The response as it stands then.",
        needs_key: true,
        parameters: &[in_path("id", "The response.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Response>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/v1/responses/{id}/input_items",
        id: "listInputItems",
        tag: LATER,
        summary: "List what a response was asked with, the conversation before it included",
        told: "A page of items.",
        needs_key: true,
        parameters: &[
            in_path("id", "The response."),
            in_query("limit", "The most items of a page.", r#"{"type": "integer", "minimum": 1, "maximum": 100}"#),
            in_query("order", "Newest first, or oldest first.", r#"{"type": "string", "enum": ["asc", "desc"]}"#),
            in_query("after", "The last item of the page before.", r#"{"type": "string"}"#),
        ],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<InputItems>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/v1/jobs/{id}",
        id: "getJob",
        tag: LATER,
        summary: "Look at a request as the job it became",
        told: "The job as it stands, with its answer once it has one.",
        needs_key: true,
        parameters: &[in_path("id", "The job.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Job>)],
        refusals: LOOKING,
    },
    Operation {
        method: "delete",
        path: "/v1/jobs/{id}",
        id: "cancelJob",
        tag: LATER,
        summary: "Cancel a job, whoever of the tenant waits for it; one that has ended stays as it is",
        told: "The job as it stands then.",
        needs_key: true,
        parameters: &[in_path("id", "The job.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Job>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/v1/jobs/{id}/explain",
        id: "explainJob",
        tag: LATER,
        summary: "Tell what happened to a job, and why",
        told: "What happened, in its order.",
        needs_key: true,
        parameters: &[in_path("id", "The job.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Explanation>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/v1/usage",
        id: "getUsage",
        tag: ABOUT,
        summary: "Report the tenant's requests, tokens and cost by day",
        told: "The report.",
        needs_key: true,
        parameters: &[
            in_query("from", "The first day, `YYYY-MM-DD`.", r#"{"type": "string", "format": "date"}"#),
            in_query("to", "The last day, `YYYY-MM-DD`.", r#"{"type": "string", "format": "date"}"#),
        ],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<UsageReport>)],
        refusals: &[400, 401, 500, 503],
    },
    Operation {
        method: "get",
        path: "/v1/promises",
        id: "listPromises",
        tag: ABOUT,
        summary: "Tell how well promised waits were kept in the last hour",
        told: "The figures of each model and tier.",
        needs_key: true,
        parameters: &[],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<PromiseList>)],
        refusals: &[401, 500, 503],
    },
    Operation {
        method: "get",
        path: "/v1/models",
        id: "listModels",
        tag: ABOUT,
        summary: "List the models",
        told: "The models.",
        needs_key: true,
        parameters: &[],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<ModelList>)],
        refusals: &[401, 500, 503],
    },
    Operation {
        method: "get",
        path: "/v1/models/{model}",
        id: "getModel",
        tag: ABOUT,
        summary: "Look at a model",
        told: "The model.",
        needs_key: true,
        parameters: &[in_path("model", "The model's name.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Model>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/healthz",
        id: "health",
        tag: ABOUT,
        summary: "Tell that the front door is there",
        told: "It is.",
        needs_key: false,
        parameters: &[],
        request: None,
        answers: &[Answer { media: "application/json", schema: None }],
        refusals: &[],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        id: "openapi",
        tag: ABOUT,
        summary: "This document",
        told: "The document.",
        needs_key: false,
        parameters: &[],
        request: None,
        answers: &[Answer { media: "application/json", schema: None }],
        refusals: &[],
    },
    Operation {
        method: "post",
        path: "/v1/files",
        id: "createFile",
        tag: KEPT,
        summary: "Keep a file, such as the requests of a batch",
        told: "The file.",
        needs_key: true,
        parameters: &[],
        request: Some(Body::Form("FileForm")),
        answers: &[json(SchemaGenerator::subschema_for::<File>)],
        refusals: SENDING,
    },
    Operation {
        method: "get",
        path: "/v1/files",
        id: "listFiles",
        tag: KEPT,
        summary: "List the tenant's files",
        told: "A page of them.",
        needs_key: true,
        parameters: &[
            in_query("purpose", "Those of this purpose alone.", r#"{"type": "string"}"#),
            in_query("limit", "The most files of a page.", r#"{"type": "integer", "minimum": 1, "maximum": 10000}"#),
            ORDER,
            in_query("after", "The last file of the page before.", r#"{"type": "string"}"#),
        ],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Page<File>>)],
        refusals: LISTING,
    },
    Operation {
        method: "get",
        path: "/v1/files/{id}",
        id: "getFile",
        tag: KEPT,
        summary: "Look at a file",
        told: "The file.",
        needs_key: true,
        parameters: &[in_path("id", "The file.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<File>)],
        refusals: LOOKING,
    },
    Operation {
        method: "delete",
        path: "/v1/files/{id}",
        id: "deleteFile",
        tag: KEPT,
        summary: "Remove a file",
        told: "That it is gone.",
        needs_key: true,
        parameters: &[in_path("id", "The file.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<FileDeleted>)],
        refusals: LOOKING,
    },
    Operation {
        method: "get",
        path: "/v1/files/{id}/content",
        id: "getFileContent",
        tag: KEPT,
        summary: "Read a file",
        told: "Its bytes.",
        needs_key: true,
        parameters: &[in_path("id", "The file.")],
        request: None,
        answers: &[bytes()],
        refusals: LOOKING,
    },
    Operation {
        method: "post",
        path: "/v1/uploads",
        id: "createUpload",
        tag: KEPT,
        summary: "Begin a file that comes in parts",
        told: "The upload.",
        needs_key: true,
        parameters: &[],
        request: Some(Body::Json("UploadRequest")),
        answers: &[json(SchemaGenerator::subschema_for::<Upload>)],
        refusals: SENDING,
    },
    Operation {
        method: "post",
        path: "/v1/uploads/{id}/parts",
        id: "addUploadPart",
        tag: KEPT,
        summary: "Add a part",
        told: "The part.",
        needs_key: true,
        parameters: &[in_path("id", "The upload.")],
        request: Some(Body::Form("PartForm")),
        answers: &[json(SchemaGenerator::subschema_for::<UploadPart>)],
        refusals: SENDING_TO,
    },
    Operation {
        method: "post",
        path: "/v1/uploads/{id}/complete",
        id: "completeUpload",
        tag: KEPT,
        summary: "Make the file of the parts",
        told: "The upload, with its file.",
        needs_key: true,
        parameters: &[in_path("id", "The upload.")],
        request: Some(Body::Json("UploadCompletion")),
        answers: &[json(SchemaGenerator::subschema_for::<Upload>)],
        refusals: SENDING_TO,
    },
    Operation {
        method: "post",
        path: "/v1/uploads/{id}/cancel",
        id: "cancelUpload",
        tag: KEPT,
        summary: "Give up an upload; its parts are removed",
        told: "The upload.",
        needs_key: true,
        parameters: &[in_path("id", "The upload.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Upload>)],
        refusals: &[400, 401, 404, 409, 500, 503],
    },
    Operation {
        method: "post",
        path: "/v1/batches",
        id: "createBatch",
        tag: LATER,
        summary: "Answer a file of requests within 1, 4 or 24 hours",
        told: "The batch.",
        needs_key: true,
        parameters: &[],
        request: Some(Body::Json("BatchRequest")),
        answers: &[json(SchemaGenerator::subschema_for::<Batch>)],
        refusals: ASKING,
    },
    Operation {
        method: "get",
        path: "/v1/batches",
        id: "listBatches",
        tag: LATER,
        summary: "List the tenant's batches",
        told: "A page of them.",
        needs_key: true,
        parameters: &[
            in_query("limit", "The most batches of a page.", r#"{"type": "integer", "minimum": 1, "maximum": 100}"#),
            ORDER,
            in_query("after", "The last batch of the page before.", r#"{"type": "string"}"#),
        ],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Page<Batch>>)],
        refusals: LISTING,
    },
    Operation {
        method: "get",
        path: "/v1/batches/{id}",
        id: "getBatch",
        tag: LATER,
        summary: "Look at a batch",
        told: "The batch as it stands.",
        needs_key: true,
        parameters: &[in_path("id", "The batch.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Batch>)],
        refusals: LOOKING,
    },
    Operation {
        method: "post",
        path: "/v1/batches/{id}/cancel",
        id: "cancelBatch",
        tag: LATER,
        summary: "Cancel a batch; what has ended stays in its files",
        told: "The batch.",
        needs_key: true,
        parameters: &[in_path("id", "The batch.")],
        request: None,
        answers: &[json(SchemaGenerator::subschema_for::<Batch>)],
        refusals: &[400, 401, 404, 409, 500, 503],
    },
];
