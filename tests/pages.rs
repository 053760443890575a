//! The pages in Markdown: their links lead somewhere, and CONTRIBUTING's table finds what it names.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, but for those that tools have fetched or built.
fn pages() -> Vec<PathBuf> {
    fn of(directory: &Path, pages: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                of(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages_ = Vec::new();
    of(root(), &mut pages_);
    pages_
}

fn text(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// A page without its blocks of code, and without code within a line.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split('`').step_by(2).collect::<Vec<_>>().join("")
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> Vec<String> {
    let outside = page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_within_the_repository_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let prose = prose(&text(&page));
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("a directory").join(file) };
            let found = target.exists() && (anchor.is_empty() || anchors(&text(&target)).iter().any(|it| it == anchor));
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_guides_are_all_listed() {
    let list = text(&root().join("docs/guides/README.md"));
    for page in pages().iter().filter(|page| page.parent().is_some_and(|it| it.ends_with("docs/guides"))) {
        let name = page.file_name().expect("a name").to_string_lossy();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name}");
    }
}

#[test]
fn what_to_change_is_found_by_its_word() {
    let contributing = text(&root().join("CONTRIBUTING.md"));
    let table = contributing.split_once("## Where to change X").expect("the table").1;
    let rows: Vec<Vec<&str>> = table
        .split("\n## ")
        .next()
        .expect("a section")
        .lines()
        .filter(|line| line.starts_with('|') && line.contains('`'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    for row in rows {
        let (word, file) = (row[2], row[3].trim_matches('`'));
        let found = text(&root().join(file)).to_lowercase().contains(word);
        assert!(found, "{word:?} is not in {file}");
    }
}
