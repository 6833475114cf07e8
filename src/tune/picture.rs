//! Turns sweeps into a picture: every pair of trials a dot, every median a bar, beside the default.
//!
//! In:    sweeps.
//! Out:   an SVG document that reads in the light and in the dark, by itself.
//! Never: needs a script, a font or another file.

use std::fmt::Write as _;

use super::decide::{Compared, GAIN_LEAST, Standing, Trial};
use super::files::named;
use super::report::word;
use super::run::Outcome;
use super::sweep::Swept;

/// Pixels: all, and where the plot begins and ends.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 430.0;
const RIGHT: f64 = 830.0;
/// Pixels of a row, and of what stands above the first of a sweep.
const ROW: f64 = 22.0;
const HEAD: f64 = 46.0;
/// Pixels above and below everything.
const TOP: f64 = 76.0;
const BOTTOM: f64 = 24.0;
/// The least that the axis shows to each side of the default.
const REACH_LEAST: f64 = 0.10;
/// And the most: what is beyond sits on the edge.
const REACH_MOST: f64 = 1.00;

const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: \
#d1d9e0; --noise: #eff2f5; --dot: #6e7781; --good: #1a7f37; --bad: #cf222e; --even: #57606a; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; \
--line: #3d444d; --noise: #1a2028; --dot: #8b949e; --good: #3fb950; --bad: #f85149; --even: \
#9198a1; } }
.paper { fill: var(--paper); } text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.title { font-size: 18px; font-weight: 600; } .head { font-weight: 600; }
.soft { fill: var(--soft); } .line { stroke: var(--line); } .noise { fill: var(--noise); }
.dot { fill: var(--dot); fill-opacity: 0.55; } .won { fill: var(--good); stroke: var(--good); }
.lost { fill: var(--bad); stroke: var(--bad); } .even { fill: var(--even); stroke: var(--even); }
.bar { stroke-width: 2; }";

/// The picture; `title` and `subtitle` stand above it.
#[must_use]
pub fn svg(title: &str, subtitle: &str, outcome: &Outcome) -> String {
    let (mut body, mut y) = (String::new(), TOP);
    for swept in outcome.all() {
        y = draw_sweep(&mut body, swept, outcome.keeps(swept), y);
    }
    let height = y + BOTTOM;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n",
        escaped(title)
    );
    put_text(&mut text, (16.0, 30.0), "title", title);
    put_text(&mut text, (16.0, 52.0), "soft", subtitle);
    text.push_str(&body);
    text.push_str("</svg>\n");
    text
}

/// An axis of ratios around the default's 1.
struct Axis {
    reach: f64,
}

impl Axis {
    fn of(swept: &Swept) -> Self {
        let all = swept.verdicts.iter().flat_map(|verdict| &verdict.compared);
        let away = all.map(|one| (one.operations.median - 1.0).abs() + 2.0 * one.operations.mad);
        let reach = away.fold(REACH_LEAST, f64::max) * 1.1;
        // Whole steps of five percent.
        Self { reach: ((reach * 20.0).ceil() / 20.0).min(REACH_MOST) }
    }

    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio - 1.0 + self.reach) / (2.0 * self.reach);
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

/// Draws a sweep below `y`; gives where the next one begins.
fn draw_sweep(body: &mut String, swept: &Swept, is_kept: bool, y: f64) -> f64 {
    let axis = Axis::of(swept);
    let rows: usize = swept.verdicts.iter().map(|verdict| verdict.compared.len().max(1)).sum();
    let (first, last) = (y + HEAD, y + HEAD + ROW * rows as f64);
    put_text(body, (16.0, y + 18.0), "head", swept.knob.name);
    put_text(body, (110.0, y + 18.0), "soft", swept.knob.what);
    // Within it nothing counts as a difference.
    let (from, to) = (axis.x(1.0 - GAIN_LEAST), axis.x(1.0 + GAIN_LEAST));
    let (width, height) = (to - from, last - first);
    let _ = writeln!(
        body,
        "<rect class=\"noise\" x=\"{from:.1}\" y=\"{first:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\"/>"
    );
    for ratio in [1.0 - axis.reach, 1.0, 1.0 + axis.reach] {
        let x = axis.x(ratio);
        let _ = writeln!(
            body,
            "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{first:.1}\" y2=\"{last:.1}\"/>\
             <text class=\"soft\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{ratio:.2}x\
             </text>",
            first - 6.0
        );
    }
    let mut row = first;
    for (at, verdict) in swept.verdicts.iter().enumerate() {
        let is_chosen = is_kept && swept.choice == Some(at);
        let chosen = if is_chosen { "chosen" } else { word(verdict.standing) };
        let setting = named(&swept.knob.candidates[at]);
        put_text(body, (16.0, row + 15.0), "", &short(&setting));
        put_text(body, (RIGHT + 16.0, row + 15.0), class(verdict.standing), chosen);
        for one in &verdict.compared {
            put_text(body, (LEFT - 96.0, row + 15.0), "soft", one.load.name());
            draw_row(body, &axis, &swept.trials, at + 1, one, (row, class(verdict.standing)));
            row += ROW;
        }
        if verdict.compared.is_empty() {
            row += ROW;
        }
    }
    last + 20.0
}

fn draw_row(
    body: &mut String,
    axis: &Axis,
    trials: &[Trial],
    setting: usize,
    one: &Compared,
    (row, class): (f64, &str),
) {
    let y = row + ROW / 2.0;
    let under = |trial: &&Trial| trial.load == one.load;
    for trial in trials.iter().filter(under).filter(|trial| trial.setting == setting) {
        let pair = |other: &&Trial| other.setting == 0 && other.half == trial.half;
        let Some(default) = trials.iter().filter(under).find(pair) else { continue };
        let its = default.sample.operations_per_cpu_second.max(f64::MIN_POSITIVE);
        let x = axis.x(trial.sample.operations_per_cpu_second / its);
        let _ = writeln!(body, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    let spread = &one.operations;
    let (from, to) = (axis.x(spread.median - spread.mad), axis.x(spread.median + spread.mad));
    let x = axis.x(spread.median);
    let _ = writeln!(
        body,
        "<line class=\"bar {class}\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" \
         y2=\"{y:.1}\"/><rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"4\" \
         height=\"14\"><title>{}: {:.3}x, MAD {:.1} %, {} pairs</title></rect>",
        x - 2.0,
        y - 7.0,
        one.load,
        spread.median,
        100.0 * spread.mad,
        spread.count,
    );
}

fn class(standing: Standing) -> &'static str {
    match standing {
        Standing::Won => "won",
        Standing::Lost | Standing::Slower | Standing::Failed => "lost",
        Standing::Tied | Standing::Hopeless | Standing::Unknown => "even",
    }
}

fn put_text(text: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let words = escaped(words);
    // A verdict has its colour as a mark; an outline would thicken its letters.
    let _ = writeln!(
        text,
        "<text class=\"{class}\" style=\"stroke: none\" x=\"{x:.1}\" \
         y=\"{y:.1}\">{words}</text>"
    );
}

/// Fits before the name of the load.
fn short(words: &str) -> String {
    const MOST: usize = 42;
    if words.chars().count() <= MOST {
        return words.to_owned();
    }
    words.chars().take(MOST - 3).chain("...".chars()).collect()
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    /// Fails where a tag is not closed, or closes another one.
    #[track_caller]
    fn check_nesting(svg: &str) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("each tag ends");
            let name = tag.split([' ', '/']).find(|name| !name.is_empty()).expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    fn drawn() -> String {
        let report = report();
        svg("ringhall tune --quick", "a <box>", &report.outcome)
    }

    #[test]
    fn every_pair_of_every_sweep_is_a_dot() {
        let report = report();
        let pairs = report.outcome.all().flat_map(|swept| &swept.trials);
        let pairs = pairs.filter(|trial| trial.setting > 0).count();
        assert_eq!(drawn().matches("<circle").count(), pairs);
        assert!(drawn().contains("chosen"));
    }

    #[test]
    fn it_is_well_formed_and_holds_light_and_dark() {
        let drawn = drawn();
        check_nesting(&drawn);
        assert!(drawn.contains("a &lt;test&gt; &amp; more") && !drawn.contains("<test>"));
        assert!(drawn.contains("prefers-color-scheme: dark"));
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }

    #[test]
    fn what_won_alone_and_lost_together_is_not_called_chosen() {
        let mut report = report();
        report.outcome.chosen.clear();
        let drawn = svg("", "", &report.outcome);
        assert!(!drawn.contains("chosen") && drawn.contains("better"), "{drawn}");
    }

    #[test]
    fn a_long_setting_is_cut() {
        assert_eq!(short("a=b"), "a=b");
        assert_eq!(short(&"x".repeat(50)).len(), 42);
    }
}
