//! Style and scripts, under names that change with what is in them: a browser may keep them for good.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::Shared;

struct Asset {
    name: String,
    kind: &'static str,
    bytes: &'static [u8],
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        asset("style", "css", "text/css; charset=utf-8", include_bytes!("../assets/style.css")),
        // idiomorph 0.8.0 (0BSD), as npm has it, sha256 4cbd535caf7663a51eda9bce6595371c384fc430d54b8d414e29a61167f19f96.
        asset("idiomorph", "js", "text/javascript; charset=utf-8", include_bytes!("../assets/idiomorph.min.js")),
        asset("live", "js", "text/javascript; charset=utf-8", include_bytes!("../assets/live.js")),
    ]
});

fn asset(name: &str, extension: &str, kind: &'static str, bytes: &'static [u8]) -> Asset {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Asset { name: format!("{name}.{:016x}.{extension}", hasher.finish()), kind, bytes }
}

/// The names of style, morphing and the page's own script.
pub(crate) fn names() -> [&'static str; 3] {
    let [style, morph, live] = &*ASSETS;
    [&style.name, &morph.name, &live.name]
}

pub(crate) async fn get(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    if let Some(colour) = shared.settings.colour.as_ref().filter(|_| name == "colour.css") {
        // Nothing but `#` and six digits.
        return ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], format!(":root {{ --band: {colour}; }}"))
            .into_response();
    }
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers =
                [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.bytes).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
