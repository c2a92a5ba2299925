//! The boards as Grafana reads them, with PromQL.

use penstock_service::telemetry::{Label, Metric};
use serde_json::{Value, json};

use crate::panels::{Board, Panel, Quantile, Series, Unit};

/// The board as a dashboard to import.
pub(crate) fn dashboard(board: &Board) -> Value {
    let panels: Vec<Value> = board.panels.iter().enumerate().map(|(at, of)| panel(at, of)).collect();
    json!({
        "uid": format!("penstock-{}", board.name),
        "title": board.title,
        "tags": ["penstock"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [{
            "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0,
        }]},
        "panels": panels,
    })
}

fn panel(at: usize, panel: &Panel) -> Value {
    const SOURCE: &str = "${datasource}";
    let (width, height, columns) = (12, 8, 2);
    let targets: Vec<Value> = panel
        .series
        .iter()
        .zip('A'..='Z')
        .map(|(series, id)| {
            json!({
                "refId": id.to_string(), "expr": expression(series), "legendFormat": legend(series),
                "datasource": {"type": "prometheus", "uid": SOURCE},
            })
        })
        .collect();
    json!({
        "id": at + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": SOURCE},
        "gridPos": {"x": at % columns * width, "y": at / columns * height, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit(panel.unit), "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    })
}

/// What Prometheus is asked.
pub(crate) fn expression(series: &Series) -> String {
    match series {
        Series::Rate(metric, by) => format!("{}(rate({}[5m]))", sum(by), counter(*metric)),
        Series::UsdPerHour(metric, by) => format!("{}(rate({}[5m])) * 3600 / 1e6", sum(by), counter(*metric)),
        Series::Level(metric, by) => format!("{}(penstock_{})", sum(by), metric.name()),
        Series::Quantile(metric, quantile, by) => {
            let by: Vec<&str> = ["le"].into_iter().chain(by.iter().map(|label| label.name())).collect();
            let q = match quantile {
                Quantile::Half => "0.5",
                Quantile::NinetyNine => "0.99",
            };
            let by = by.join(", ");
            format!("histogram_quantile({q}, sum by ({by}) (rate(penstock_{}_bucket[5m])))", metric.name())
        }
        Series::Part { part, of, by } => {
            format!("{0}(rate({1}[5m])) / {0}(rate({2}[5m]))", sum(by), counter(*part), counter(*of))
        }
        Series::Engine(expression, _) => (*expression).to_owned(),
    }
}

fn counter(metric: Metric) -> String {
    format!("penstock_{}_total", metric.name())
}

fn sum(by: &[Label]) -> String {
    let names: Vec<&str> = by.iter().map(|label| label.name()).collect();
    if names.is_empty() { "sum".to_owned() } else { format!("sum by ({}) ", names.join(", ")) }
}

fn legend(series: &Series) -> String {
    let of = |what: &str, by: &[Label]| {
        let labels: String = by.iter().map(|label| format!(" {{{{{}}}}}", label.name())).collect();
        format!("{what}{labels}")
    };
    match series {
        Series::Rate(metric, by) | Series::UsdPerHour(metric, by) | Series::Level(metric, by) => of(metric.name(), by),
        Series::Quantile(_, Quantile::Half, by) => of("half", by),
        Series::Quantile(_, Quantile::NinetyNine, by) => of("99 of 100", by),
        Series::Part { part, by, .. } => of(part.name(), by),
        Series::Engine(_, legend) => (*legend).to_owned(),
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "short",
        Unit::PerSecond => "cps",
        Unit::Seconds => "s",
        Unit::Share => "percentunit",
        Unit::Times => "none",
        Unit::Usd => "currencyUSD",
    }
}
