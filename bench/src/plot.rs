//! The picture of a case, for people who know nothing of its names.

use std::path::Path;

use plotters::prelude::*;

/// What a contestant is called in a picture.
fn label(who: &str) -> &str {
    match who {
        "ours" => "backfill, defaults",
        "node" => "graphile-worker (Node), defaults",
        "node-best" => "graphile-worker (Node), best settings",
        "gw" => "graphile_worker (crate), defaults",
        "gw-best" => "graphile_worker (crate), best settings",
        "river" => "riverqueue (crate), defaults",
        "river-best" => "riverqueue (crate), best settings",
        _ => who,
    }
}

/// A whole number with a space before every three digits.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A bar for each contestant: its median, with a line from its worst round to its best.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a dozen bars")]
pub fn bars(
    title: &str,
    bars: &[(&str, [f64; 3])],
    path: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let most = bars.iter().map(|(_, it)| it[2]).fold(0.0, f64::max) * 1.05;
    let (row, left) = (28, 250);
    let height = 60 + row * bars.len() as u32;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new(title.to_owned(), (10, 12), text(18)))?;
    let scale = |figure: f64| left + (figure / most * f64::from(900 - left - 90)) as i32;
    for (index, (who, [median, least, greatest])) in bars.iter().enumerate() {
        let top = 45 + (index as u32 * row) as i32;
        let middle = top + 9;
        let color = match *who {
            "ours" => RGBColor(200, 80, 30),
            _ if who.starts_with("floor") => RGBColor(190, 190, 190),
            _ => RGBColor(70, 110, 160),
        };
        root.draw(&Text::new(label(who).to_owned(), (10, top + 2), text(15)))?;
        root.draw(&Rectangle::new([(left, top), (scale(*median), top + 18)], color.filled()))?;
        root.draw(&PathElement::new([(scale(*least), middle), (scale(*greatest), middle)], BLACK))?;
        root.draw(&Text::new(grouped(*median), (scale(*greatest) + 6, top + 2), text(14)))?;
    }
    root.present()?;
    Ok(())
}
