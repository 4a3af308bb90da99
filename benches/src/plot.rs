//! Charts as SVG: how a cost grows. Drawn from figures of one run, so that the picture is never older than the table.

use std::fmt::Write as _;

use crate::measure::figure;

/// One curve over a logarithmic axis.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is drawn, with the unit.
    pub title: String,
    /// What stands below.
    pub below: String,
    /// (place on the axis below, height), ascending by place.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 210.0;
/// Room for words on the left and below, and at the other sides.
const LEFT: f64 = 44.0;
const BOTTOM: f64 = 40.0;
const MARGIN: f64 = 24.0;

impl Chart {
    /// Where a point lies. The axis on the left begins at 0.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (first, last) = (self.points.first(), self.points.last());
        let (from, to) = (first.map_or(1.0, |point| point.0.ln()), last.map_or(2.0, |point| point.0.ln()));
        let top = self.points.iter().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
        let across = (x.ln() - from) / (to - from).max(f64::MIN_POSITIVE);
        (
            LEFT + across * (WIDTH - LEFT - MARGIN),
            HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - MARGIN - 14.0),
        )
    }

    fn draw(&self, svg: &mut String, left: f64) -> std::fmt::Result {
        writeln!(svg, "<g transform=\"translate({left:.0} 0)\">")?;
        writeln!(svg, "<text x=\"{LEFT:.0}\" y=\"18\" class=\"title\">{}</text>", self.title)?;
        let (right, floor) = (WIDTH - MARGIN, HEIGHT - BOTTOM);
        writeln!(svg, "<path d=\"M{LEFT:.0} {MARGIN:.0}V{floor:.0}H{right:.0}\" class=\"axis\"/>")?;
        let middle = f64::midpoint(LEFT, right);
        writeln!(
            svg,
            "<text x=\"{middle:.0}\" y=\"{:.0}\" class=\"word\">{}</text>",
            HEIGHT - 6.0,
            self.below
        )?;
        let places: Vec<(f64, f64)> = self.points.iter().map(|point| self.place(*point)).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(svg, "<polyline points=\"{}\" class=\"line\"/>", line.join(" "))?;
        for ((x, y), (value, height)) in places.iter().zip(&self.points) {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>")?;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" class=\"word\">{}</text>",
                y - 7.0,
                figure(*height)
            )?;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" class=\"word\">{}</text>",
                floor + 14.0,
                short(*value)
            )?;
        }
        writeln!(svg, "</g>")
    }
}

/// A count in few characters.
fn short(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{}M", count / 1e6),
        count if count >= 1e3 => format!("{}k", count / 1e3),
        count => format!("{count}"),
    }
}

/// Charts side by side, as the text of an SVG file.
pub fn svg(charts: &[Chart]) -> String {
    let width = WIDTH * charts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {HEIGHT:.0}\" \
         font-family=\"sans-serif\" font-size=\"10\">\n<style>.title{{font-weight:bold}}\
         .word{{text-anchor:middle}}.axis{{fill:none;stroke:#888}}\
         .line{{fill:none;stroke:#2a6;stroke-width:2}}circle{{fill:#2a6}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (chart, n) in charts.iter().zip(0u8..) {
        // Writing to a string does not fail.
        let _ = chart.draw(&mut svg, f64::from(n) * WIDTH);
    }
    svg.push_str("</svg>\n");
    svg
}
