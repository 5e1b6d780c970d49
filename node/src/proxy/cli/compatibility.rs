//! Flags of upstream's kube-proxy that have no effect here: rules are always nftables, profiling does not exist, and
//! logging follows the process that hosts the proxy. They are accepted, so that existing unit files keep working.

/// Flags without effect.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Compatibility {
    /// No effect.
    #[arg(long, hide = true, short = 'v')]
    pub v: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub feature_gates: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub kube_api_qps: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub kube_api_burst: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub kube_api_content_type: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub config_sync_period: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub oom_score_adj: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub profiling: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub iptables_sync_period: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub iptables_min_sync_period: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub iptables_localhost_nodeports: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_sync_period: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_min_sync_period: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_scheduler: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_exclude_cidrs: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_strict_arp: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_tcp_timeout: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_tcpfin_timeout: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub ipvs_udp_timeout: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub show_hidden_metrics_for_version: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub logging_format: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub log_flush_frequency: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub vmodule: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub log_text_split_stream: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub log_text_info_buffer_size: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub log_json_split_stream: Option<String>,
    /// No effect.
    #[arg(long, hide = true, num_args = 0..=1)]
    pub log_json_info_buffer_size: Option<String>,
}
