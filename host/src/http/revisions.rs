//! `POST /v1/agents/{agent}/revisions`: a module and its manifest in, a running revision out.

use std::sync::Arc;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::ApiState;
use super::extract::{AgentPath, Params};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{DeployedOrPlanView, DeployedView, PlanView};
use crate::agents::{Activation, MANIFEST_BYTES_MAX, MIGRATION_BYTES_MAX, MIGRATIONS_MAX, MODULE_BYTES_MAX, Upload};
use crate::catalog::{Actor, Migration};
use crate::signature::{SIGNATURE_BYTES_MAX, SIGNATURES_BYTES_MAX, SIGNATURES_MAX, Signature};

/// Longest file name of a migration.
const MIGRATION_NAME_BYTES_MAX: usize = 255;

/// Query of a deploy.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeployQuery {
    /// `false` adds the revision and leaves new tasks where they go.
    activate: Option<bool>,
    /// `true` checks the revision and says what it would change, and changes nothing.
    plan: Option<bool>,
}

/// The parts of a deploy. Documentation of the form, which is read as it arrives.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the multipart form in the OpenAPI document")]
pub(crate) struct DeployForm {
    /// The wasm module, at most 128 MiB.
    #[schema(value_type = String, format = Binary, content_media_type = "application/wasm")]
    module: Vec<u8>,
    /// The text of `agent.toml`.
    manifest: String,
    /// SQL migrations: a part for each, its file name names it. They are applied in name order.
    #[schema(value_type = Option<Vec<String>>)]
    migration: Option<Vec<String>>,
    /// Signatures of the module: a part for each, at most 8. What `cosign sign-blob` writes: one of the module's bytes, in
    /// base64. They are kept with the revision; a host that trusts certain keys refuses a module without a signature of one.
    #[schema(value_type = Option<Vec<String>>)]
    signature: Option<Vec<String>>,
}

/// Deploys a revision of an agent.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/revisions",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name, as in the manifest"), DeployQuery),
    request_body(content = DeployForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "The same module and manifest are deployed already; migrations that are new to them are applied. With `plan=true`: what would change", body = DeployedOrPlanView),
        (status = 201, description = "Deployed", body = DeployedView,
            headers(("Location" = String, description = "The agent's path"))),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "A malformed agent name", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 413, description = "A part is too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "It cannot run here; the running revision stays", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The broker or the catalog is away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn deploy(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Params(query): Params<DeployQuery>,
    Extension(who): Extension<Actor>,
    request: Request,
) -> Result<Response, Problem> {
    let _place = api.uploads.acquire().await.map_err(|_| Problem::new(Kind::Internal, "the host takes no uploads"))?;
    let upload = read(request).await?;
    let signatures: u64 = upload.signatures.iter().map(Signature::held_bytes).sum();
    let _held = api.ports.memory.charge(upload.module.len() as u64 + signatures);
    if query.plan.unwrap_or(false) {
        let plan = api.ports.agents.plan(&agent, upload).await?;
        return Ok(Json(PlanView::of(&agent, plan)).into_response());
    }
    let activation = if query.activate.unwrap_or(true) { Activation::Always } else { Activation::Never };
    let deployed = api.ports.agents.deploy(&agent, upload, activation, who).await?;
    let view = DeployedView {
        agent: deployed.agent.to_string(),
        revision: deployed.revision,
        digest: deployed.digest,
        status: if deployed.active { "active" } else { "inactive" },
        signed_by: deployed.signed_by,
    };
    if deployed.known {
        return Ok(Json(view).into_response());
    }
    let location = format!("/v1/agents/{}", view.agent);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}

fn malformed(error: &MultipartError) -> Problem {
    Problem::bad_request(format!("the multipart form could not be read: {}", error.body_text()))
}

/// Reads the form, each part by its own limit.
async fn read(request: Request) -> Result<Upload, Problem> {
    refuse_other_types(request.headers())?;
    let mut form =
        Multipart::from_request(request, &()).await.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let (mut module, mut manifest, mut migrations) = (None, None, Vec::<Migration>::new());
    let mut signatures = Vec::<Signature>::new();
    while let Some(field) = form.next_field().await.map_err(|error| malformed(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "module" if module.is_none() => module = Some(part(field, &name, MODULE_BYTES_MAX.0).await?),
            "manifest" if manifest.is_none() => manifest = Some(text(field, &name, MANIFEST_BYTES_MAX.0).await?),
            "migration" => {
                if migrations.len() == MIGRATIONS_MAX {
                    return Err(Problem::new(
                        Kind::TooLarge,
                        format!("a revision has at most {MIGRATIONS_MAX} migrations"),
                    ));
                }
                migrations.push(migration(field).await?);
            }
            "signature" if signatures.len() < SIGNATURES_MAX => {
                let text = text(field, &name, SIGNATURE_BYTES_MAX).await?;
                let signature = Signature::parse(&text);
                signatures.push(signature.map_err(|error| Problem::new(Kind::RevisionRefused, error.to_string()))?);
                if signatures.iter().map(Signature::held_bytes).sum::<u64>() > SIGNATURES_BYTES_MAX {
                    let detail = format!("a revision's signatures have at most {SIGNATURES_BYTES_MAX} bytes together");
                    return Err(Problem::new(Kind::TooLarge, detail));
                }
            }
            "signature" => {
                let detail = format!("a revision has at most {SIGNATURES_MAX} signatures");
                return Err(Problem::new(Kind::TooLarge, detail));
            }
            "module" | "manifest" => return Err(Problem::bad_request(format!("the form has two parts {name:?}"))),
            _ => {
                let detail = format!(
                    "unknown part {name:?}: expected \"module\", \"manifest\", \"migration\" and \"signature\""
                );
                return Err(Problem::bad_request(detail));
            }
        }
    }
    migrations.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = migrations.iter().zip(migrations.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        return Err(Problem::bad_request(format!("the form has two migrations named {:?}", twice.0.name)));
    }
    let missing = |name| Problem::bad_request(format!("the form has no part {name:?}"));
    Ok(Upload {
        module: module.ok_or_else(|| missing("module"))?,
        manifest: manifest.ok_or_else(|| missing("manifest"))?,
        migrations,
        signatures,
    })
}

/// axum would say it too, though not what was expected instead.
fn refuse_other_types(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.to_ascii_lowercase().starts_with("multipart/form-data") {
        return Ok(());
    }
    Err(Problem::bad_request(
        "expected multipart/form-data with a part \"module\" (the wasm file) and a part \"manifest\" (agent.toml)",
    ))
}

async fn migration(field: Field<'_>) -> Result<Migration, Problem> {
    let name = field.file_name().unwrap_or_default().to_owned();
    if name.is_empty() || name.len() > MIGRATION_NAME_BYTES_MAX || name.contains(['/', '\\', '\0']) {
        return Err(Problem::bad_request(
            "a part \"migration\" has no file name, or one that is no plain name: expected such as 0001_create.sql",
        ));
    }
    let sql = text(field, &format!("migration {name}"), MIGRATION_BYTES_MAX.0).await?;
    Ok(Migration { name, sql })
}

async fn text(field: Field<'_>, name: &str, bytes_max: u64) -> Result<String, Problem> {
    let bytes = part(field, name, bytes_max).await?;
    String::from_utf8(bytes.into())
        .map_err(|_| Problem::new(Kind::RevisionRefused, format!("part {name:?} is not UTF-8 text")))
}

async fn part(mut field: Field<'_>, name: &str, bytes_max: u64) -> Result<Bytes, Problem> {
    let mut all = BytesMut::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| malformed(&error))? {
        if (all.len() + chunk.len()) as u64 > bytes_max {
            return Err(Problem::too_large(&format!("part {name:?}"), bytes_max));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}
