//! What the metrics APIs say, for each kind of metric, and the replicas it calls for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::{Format, Quantity};
use machinery::selector::Labels;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::calc::{self, Goal, Groups, Outcome, Sample};
use super::{Stop, Target, get};
use crate::meta::{name, namespace};
use crate::options::AutoscalerOptions;
use crate::pods;
use crate::runtime::{Context, Store};

/// What one metric calls for.
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// Which metric, in words.
    pub name: String,
    /// For the status.
    pub status: MetricStatus,
}

/// Everything one metric is computed from.
struct Input<'a> {
    one: &'a HorizontalPodAutoscaler,
    target: &'a Target,
    pods: Vec<Arc<Pod>>,
    options: &'a AutoscalerOptions,
    context: &'a Context<'a>,
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn milli(text: &Text) -> i64 {
    Quantity::parse(&text.0).map_or(0, Quantity::milli_value)
}

fn text(milli: i64) -> Text {
    Text(Quantity::from_milli(milli, Format::DecimalSi).to_string())
}

fn quantity(value: &Value) -> i64 {
    Quantity::from_value(value).map_or(0, Quantity::milli_value)
}

/// Computes what a metric calls for.
///
/// # Errors
/// What must be asked first, or why the metric is not to be had.
pub fn proposal(
    metric: &MetricSpec,
    one: &HorizontalPodAutoscaler,
    target: &Target,
    store: &Store<Pod>,
    options: &AutoscalerOptions,
    context: &Context,
) -> Result<Proposal, Stop> {
    let selected = |pod: &Pod, selector: &Labels| {
        selector.matches_fn(|key| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
        })
    };
    let mut pods = store.in_namespace(namespace(one));
    match &target.selector {
        Some(selector) => pods.retain(|pod| selected(pod, selector)),
        None => return Err(Stop::failed("InvalidSelector", "the HPA target's scale is missing a selector")),
    }
    let input = Input { one, target, pods, options, context };
    match metric.type_.as_str() {
        "Resource" => input.resource(metric),
        "ContainerResource" => input.container_resource(metric),
        "Pods" => input.pods(metric),
        "Object" => input.object(metric),
        "External" => input.external(metric),
        other => {
            Err(Stop::failed("InvalidMetricSourceType", format!("unknown metric source type {other:?}")))
        }
    }
}

fn incomplete(kind: &str) -> Stop {
    Stop::failed("InvalidMetricSourceType", format!("the {kind} metric source is incomplete"))
}

fn value_status(outcome: &Outcome, goal: &MetricTarget, average: i64) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: goal.average_utilization.map(|_| outcome.usage as i32),
        average_value: Some(text(average)),
        value: None,
    }
}

impl Input<'_> {
    fn tolerance(&self) -> (f64, f64) {
        let behavior = self.one.spec.behavior.as_ref();
        let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
            rules
                .and_then(|rules| rules.tolerance.as_ref())
                .map_or(self.options.tolerance, |t| milli(t) as f64 / 1000.0)
        };
        (of(behavior.and_then(|b| b.scale_down.as_ref())), of(behavior.and_then(|b| b.scale_up.as_ref())))
    }

    fn resource(&self, metric: &MetricSpec) -> Result<Proposal, Stop> {
        let source = metric.resource.as_ref().ok_or_else(|| incomplete("resource"))?;
        let (outcome, average) = self.usage(&source.name, None, &source.target, "FailedGetResourceMetric")?;
        let current = value_status(&outcome, &source.target, average);
        let status = MetricStatus {
            type_: "Resource".into(),
            resource: Some(ResourceMetricStatus { name: source.name.clone(), current }),
            ..MetricStatus::default()
        };
        let word = if source.target.average_utilization.is_some() {
            " utilization (percentage of request)"
        } else {
            ""
        };
        Ok(Proposal { replicas: outcome.replicas, name: format!("{} resource{word}", source.name), status })
    }

    fn container_resource(&self, metric: &MetricSpec) -> Result<Proposal, Stop> {
        let source = metric.container_resource.as_ref().ok_or_else(|| incomplete("container resource"))?;
        let container = Some(source.container.as_str());
        let (outcome, average) =
            self.usage(&source.name, container, &source.target, "FailedGetContainerResourceMetric")?;
        let current = value_status(&outcome, &source.target, average);
        let own = ContainerResourceMetricStatus {
            name: source.name.clone(),
            container: source.container.clone(),
            current,
        };
        let status = MetricStatus {
            type_: "ContainerResource".into(),
            container_resource: Some(own),
            ..MetricStatus::default()
        };
        let word = if source.target.average_utilization.is_some() {
            " utilization (percentage of request)"
        } else {
            ""
        };
        Ok(Proposal {
            replicas: outcome.replicas,
            name: format!("{} container resource{word}", source.name),
            status,
        })
    }

    /// Replicas by a resource, and the average use in thousandths.
    fn usage(
        &self,
        resource: &str,
        container: Option<&str>,
        goal: &MetricTarget,
        reason: &'static str,
    ) -> Result<(Outcome, i64), Stop> {
        let space = namespace(self.one);
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{space}/pods?labelSelector={}",
            encode(&self.target.selector_text)
        );
        let body = get(path, reason, self.context)?;
        let samples = resource_samples(&body, resource, container, self.context.now);
        if samples.is_empty() {
            let message = "failed to get resource metric: no metrics returned from resource metrics API";
            return Err(Stop::failed(reason, message));
        }
        let groups = self.groups(&samples, resource == "cpu");
        let requests = self.requests(resource, container).map_err(|why| Stop::failed(reason, why))?;
        let goal = match (goal.average_utilization, &goal.average_value) {
            (Some(percent), _) => Goal::Utilization { percent, requests: &requests },
            (None, Some(value)) => Goal::Average(milli(value)),
            (None, None) => return Err(incomplete("resource")),
        };
        let outcome = calc::replicas(self.target.current, &samples, &groups, &goal, self.tolerance());
        let outcome = outcome
            .map_err(|why| Stop::failed(reason, format!("failed to get {resource} utilization: {why}")))?;
        let average = samples.values().map(|sample| sample.milli).sum::<i64>()
            / i64::try_from(samples.len()).unwrap_or(1);
        Ok((outcome, average))
    }

    fn groups(&self, samples: &BTreeMap<String, Sample>, is_cpu: bool) -> Groups {
        calc::group(&self.pods, samples, is_cpu, self.options, self.context.now)
    }

    /// Requests by pod. A pod without one makes a percentage meaningless.
    fn requests(&self, resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
        let mut requests = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| !pods::is_finished(pod)) {
            let mut sum = 0;
            for own in pod
                .spec
                .iter()
                .flat_map(|spec| &spec.containers)
                .filter(|c| container.is_none_or(|n| n == c.name))
            {
                let asked = own.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
                let missing = || {
                    format!(
                        "missing request for {resource} in container {} of Pod {}",
                        own.name,
                        name(pod.as_ref())
                    )
                };
                sum += asked.map(milli).ok_or_else(missing)?;
            }
            requests.insert(name(pod.as_ref()).to_string(), sum);
        }
        Ok(requests)
    }

    fn pods(&self, metric: &MetricSpec) -> Result<Proposal, Stop> {
        let reason = "FailedGetPodsMetric";
        let source = metric.pods.as_ref().ok_or_else(|| incomplete("pods"))?;
        let goal = source.target.average_value.as_ref().ok_or_else(|| incomplete("pods"))?;
        let space = namespace(self.one);
        let path = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{space}/pods/*/{}?labelSelector={}{}",
            source.metric.name,
            encode(&self.target.selector_text),
            metric_selector(&source.metric, "metricLabelSelector")
        );
        let body = get(path, reason, self.context)?;
        let samples = custom_samples(&body, self.context.now);
        let groups = self.groups(&samples, false);
        let outcome = calc::replicas(
            self.target.current,
            &samples,
            &groups,
            &Goal::Average(milli(goal)),
            self.tolerance(),
        );
        let outcome = outcome.map_err(|why| Stop::failed(reason, why))?;
        let current = MetricValueStatus {
            average_value: Some(text(outcome.usage as i64)),
            ..MetricValueStatus::default()
        };
        let own = PodsMetricStatus { metric: source.metric.clone(), current };
        let status = MetricStatus { type_: "Pods".into(), pods: Some(own), ..MetricStatus::default() };
        Ok(Proposal {
            replicas: outcome.replicas,
            name: format!("pods metric {}", source.metric.name),
            status,
        })
    }

    fn object(&self, metric: &MetricSpec) -> Result<Proposal, Stop> {
        let reason = "FailedGetObjectMetric";
        let source = metric.object.as_ref().ok_or_else(|| incomplete("object"))?;
        let described = &source.described_object;
        let api_version = described.api_version.as_deref().unwrap_or("v1");
        let group = api_version.rsplit_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
        let plural = format!("{}s{group}", described.kind.to_lowercase());
        let place = if described.kind == "Namespace" {
            format!("namespaces/{}/metrics", described.name)
        } else {
            format!("namespaces/{}/{plural}/{}", namespace(self.one), described.name)
        };
        let selector = metric_selector(&source.metric, "metricLabelSelector").replacen('&', "?", 1);
        let path = format!("/apis/custom.metrics.k8s.io/v1beta2/{place}/{}{selector}", source.metric.name);
        let body = get(path, reason, self.context)?;
        let value =
            body["items"].as_array().and_then(|items| items.first()).map(|item| quantity(&item["value"]));
        let value =
            value.ok_or_else(|| Stop::failed(reason, "no metrics returned from custom metrics API"))?;
        let replicas = self.by_value(value, &source.target)?;
        let current = self.value_status(value, &source.target);
        let own = ObjectMetricStatus {
            described_object: described.clone(),
            metric: source.metric.clone(),
            current,
        };
        let status = MetricStatus { type_: "Object".into(), object: Some(own), ..MetricStatus::default() };
        Ok(Proposal { replicas, name: format!("{} metric {}", described.kind, source.metric.name), status })
    }

    fn external(&self, metric: &MetricSpec) -> Result<Proposal, Stop> {
        let reason = "FailedGetExternalMetric";
        let source = metric.external.as_ref().ok_or_else(|| incomplete("external"))?;
        let selector = metric_selector(&source.metric, "labelSelector").replacen('&', "?", 1);
        let space = namespace(self.one);
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{space}/{}{selector}",
            source.metric.name
        );
        let body = get(path, reason, self.context)?;
        let items = body["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if items.is_empty() {
            return Err(Stop::failed(reason, "no metrics returned from external metrics API"));
        }
        let value = items.iter().map(|item| quantity(&item["value"])).sum();
        let replicas = self.by_value(value, &source.target)?;
        let own = ExternalMetricStatus {
            metric: source.metric.clone(),
            current: self.value_status(value, &source.target),
        };
        let status =
            MetricStatus { type_: "External".into(), external: Some(own), ..MetricStatus::default() };
        Ok(Proposal { replicas, name: format!("external metric {}", source.metric.name), status })
    }

    fn by_value(&self, value: i64, goal: &MetricTarget) -> Result<i32, Stop> {
        let ready =
            self.pods.iter().filter(|pod| pods::is_ready(pod) && pods::phase(pod) == "Running").count();
        match (&goal.value, &goal.average_value) {
            (Some(whole), _) => {
                Ok(calc::shared(self.target.current, ready, value, milli(whole).max(1), self.tolerance()))
            }
            (None, Some(part)) => {
                Ok(calc::per_pod(self.target.current, value, milli(part).max(1), self.tolerance()))
            }
            (None, None) => Err(incomplete("object or external")),
        }
    }

    fn value_status(&self, value: i64, goal: &MetricTarget) -> MetricValueStatus {
        let average = || value / i64::from(self.target.current.max(1));
        MetricValueStatus {
            value: goal.value.as_ref().map(|_| text(value)),
            average_value: goal.value.is_none().then(|| text(average())),
            average_utilization: None,
        }
    }
}

fn metric_selector(metric: &MetricIdentifier, parameter: &str) -> String {
    let Some(selector) = &metric.selector else { return String::new() };
    let json = serde_json::to_value(selector).unwrap_or_default();
    Labels::from_value(&json)
        .map_or(String::new(), |labels| format!("&{parameter}={}", encode(&labels.to_string())))
}

fn time(value: &Value, or: Timestamp) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(or)
}

fn resource_samples(
    body: &Value,
    resource: &str,
    container: Option<&str>,
    now: Timestamp,
) -> BTreeMap<String, Sample> {
    let mut samples = BTreeMap::new();
    for item in body["items"].as_array().into_iter().flatten() {
        let containers = item["containers"].as_array().into_iter().flatten();
        let own = containers.filter(|c| container.is_none_or(|name| c["name"] == name));
        let used: Vec<&Value> = own.map(|c| &c["usage"][resource]).filter(|value| !value.is_null()).collect();
        let Some(pod) = item["metadata"]["name"].as_str().filter(|_| !used.is_empty()) else { continue };
        let window = item["window"].as_str().and_then(|text| machinery::time::duration::parse(text).ok());
        let window =
            window.and_then(|window| Duration::try_from(window).ok()).unwrap_or(Duration::from_secs(60));
        let milli = used.into_iter().map(quantity).sum();
        samples.insert(pod.to_string(), Sample { milli, at: time(&item["timestamp"], now), window });
    }
    samples
}

fn custom_samples(body: &Value, now: Timestamp) -> BTreeMap<String, Sample> {
    let items = body["items"].as_array().into_iter().flatten();
    let sample = |item: &Value| {
        let window = Duration::from_secs(item["windowSeconds"].as_u64().unwrap_or(60));
        let pod = item["describedObject"]["name"].as_str()?.to_string();
        Some((pod, Sample { milli: quantity(&item["value"]), at: time(&item["timestamp"], now), window }))
    };
    items.filter_map(sample).collect()
}
