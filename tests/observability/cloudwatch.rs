//! The boards as CloudWatch reads them, as a nested stack.

use penstock_service::telemetry::emf::{NAMESPACE, is_dimension};
use penstock_service::telemetry::{Label, Metric};
use serde_json::{Value, json};

use crate::panels::{Board, Panel, Quantile, Series, Unit};

/// Seconds that a point stands for.
const PERIOD: u32 = 60;

/// `infra/dashboards.yaml`, in the part of YAML that is JSON.
pub(crate) fn stack(boards: &[Board]) -> String {
    let mut resources = serde_json::Map::new();
    for board in boards {
        let mut name = board.name.to_owned();
        name[..1].make_ascii_uppercase();
        let body = serde_json::to_string(&dashboard(board)).unwrap_or_default();
        resources.insert(
            format!("{name}Dashboard"),
            json!({
                "Type": "AWS::CloudWatch::Dashboard",
                "Properties": {
                    "DashboardName": {"Fn::Sub": format!("penstock-${{Stage}}-{}", board.name)},
                    "DashboardBody": {"Fn::Sub": body},
                },
            }),
        );
    }
    let template = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Penstock: dashboards of requests, fleet and cost.",
        "Parameters": {"Stage": {
            "Type": "String", "AllowedPattern": "^[a-z][a-z0-9]{0,19}$", "Description": "The stage, part of the names.",
        }},
        "Resources": resources,
        "Outputs": {"Dashboards": {
            "Description": "Where the dashboards are",
            "Value": {"Fn::Sub": "https://console.aws.amazon.com/cloudwatch/home?region=${AWS::Region}#dashboards:"},
        }},
    });
    let text = serde_json::to_string_pretty(&template).unwrap_or_default();
    format!(
        "# Made of tests/observability/panels.rs by `PENSTOCK_WRITE=1 cargo test -p system-tests --features processes \
         --test observability`.\n{text}\n"
    )
}

fn dashboard(board: &Board) -> Value {
    // What only Prometheus knows is not here.
    let shown = board.panels.iter().filter(|panel| panel.series.iter().any(|of| !matches!(of, Series::Engine(..))));
    let widgets: Vec<Value> = shown.enumerate().map(|(at, panel)| widget(at, panel)).collect();
    json!({"widgets": widgets})
}

fn widget(at: usize, panel: &Panel) -> Value {
    let (width, height, columns) = (12, 6, 2);
    let metrics: Vec<Value> = panel.series.iter().zip(1..).flat_map(|(series, id)| metrics(series, id)).collect();
    json!({
        "type": "metric", "x": at % columns * width, "y": at / columns * height, "width": width, "height": height,
        "properties": {
            "title": format!("{}{}", panel.title, unit(panel.unit)), "region": "${AWS::Region}", "view": "timeSeries", "stacked": false, "period": PERIOD,
            "yAxis": {"left": {"min": 0}}, "metrics": metrics,
        },
    })
}

fn metrics(series: &Series, id: u32) -> Vec<Value> {
    let alone = |expression: String, label: &str| {
        vec![json!([{"expression": expression, "label": label, "id": format!("e{id}")}])]
    };
    match series {
        Series::Rate(metric, _) => alone(format!("{}/{PERIOD}", all(*metric, "Sum")), metric.name()),
        Series::UsdPerHour(metric, _) => {
            let per_hour = 3600 / PERIOD;
            alone(format!("{}*{per_hour}/1000000", all(*metric, "Sum")), metric.name())
        }
        Series::Level(metric, _) => alone(search(*metric, "Average"), metric.name()),
        Series::Quantile(metric, Quantile::Half, _) => alone(search(*metric, "p50"), "half"),
        Series::Quantile(metric, Quantile::NinetyNine, _) => alone(search(*metric, "p99"), "99 of 100"),
        Series::Part { part, of, .. } => alone(format!("{}/{}", all(*part, "Sum"), all(*of, "Sum")), part.name()),
        Series::Engine(..) => Vec::new(),
    }
}

/// All series of a metric that this stage has.
fn search(metric: Metric, statistic: &str) -> String {
    let dimensions: Vec<&str> = ["stage"]
        .into_iter()
        .chain(metric.labels().iter().filter(|label| is_dimension(**label)).map(|label: &Label| label.name()))
        .collect();
    let schema = dimensions.join(",");
    format!(
        "SEARCH('{{{NAMESPACE},{schema}}} MetricName=\"{}\" stage=\"${{Stage}}\"', '{statistic}', {PERIOD})",
        metric.name()
    )
}

/// Their sum.
fn all(metric: Metric, statistic: &str) -> String {
    format!("SUM({})", search(metric, statistic))
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "",
        Unit::PerSecond => ", per second",
        Unit::Seconds => ", seconds",
        Unit::Share => ", share",
        Unit::Times => ", times",
        Unit::Usd => ", dollars per hour",
    }
}
