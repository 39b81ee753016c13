# Names are those of terraform-aws-modules/lambda where it has the variable. What a value may be is said in derived/.

variable "function_name" {
  description = "The function's, and of what belongs to it"
  type        = string
  default     = "decant"
}

variable "image_uri" {
  description = "The image in a registry of this region, by its digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/decant@sha256:…"
  type        = string
}

variable "models" {
  description = "Where each model's versions are, by the name that clients use: { digits = \"s3://my-models/vision/digits\" }. The function reads nothing else; a directory is one of the image's"
  type        = map(string)
}

variable "model_config_file" {
  description = "The URL of a config.json in S3 that has the models, instead of the environment; models is then for what may be read alone"
  type        = string
  default     = ""
}

variable "model_kms_key_arn" {
  description = "The key that the bucket is encrypted with, if it is one of your own"
  type        = string
  default     = ""
}

variable "environment_variables" {
  description = "Further settings, as DECANT_<FLAG>"
  type        = map(string)
  default     = {}
}

variable "architectures" {
  description = "The image's own: [\"x86_64\"] or [\"arm64\"]"
  type        = list(string)
  default     = ["x86_64"]
}

variable "memory_size" {
  description = "MB. It is the share of CPU too, 1,769 MB buy a whole one"
  type        = number
  default     = 2048
}

variable "ephemeral_storage_size" {
  description = "MB of /tmp, which models are downloaded to; 512 with snap_start"
  type        = number
  default     = 1024
}

variable "timeout" {
  description = "Seconds. The first request waits for the download, the compilation and its inference"
  type        = number
  default     = 60
}

variable "reserved_concurrent_executions" {
  description = "Instances at most, taken from the account's; -1 for no such limit"
  type        = number
  default     = -1
}

variable "provisioned_concurrent_executions" {
  description = "Instances that are always warm, and paid for; -1 for none"
  type        = number
  default     = -1
}

variable "snap_start" {
  description = "Whether instances start from an image of the memory with the models loaded"
  type        = bool
  default     = false
}

variable "create_lambda_function_url" {
  description = "Whether the function has a URL of its own"
  type        = bool
  default     = true
}

variable "authorization_type" {
  description = "Of that URL: AWS_IAM for signed requests only; NONE lets anybody call"
  type        = string
  default     = "AWS_IAM"
}

variable "http_api" {
  description = "Who may call an HTTP API in front of the function: AWS_IAM or JWT; NONE for no such API. It ends requests after 30 s"
  type        = string
  default     = "NONE"
}

variable "jwt_issuer" {
  description = "With JWT, whose tokens count, such as https://cognito-idp.REGION.amazonaws.com/POOL"
  type        = string
  default     = ""
}

variable "jwt_audience" {
  description = "With JWT, whom they must be for"
  type        = list(string)
  default     = []
}

variable "cloudwatch_logs_retention_in_days" {
  description = "Days"
  type        = number
  default     = 30
}

variable "cloudwatch_logs_kms_key_id" {
  description = "The ARN of a key of your own for the logs; its policy must let CloudWatch Logs use it"
  type        = string
  default     = null
}

variable "alarm_actions" {
  description = "The ARNs of who is told of alarms, such as an SNS topic"
  type        = list(string)
  default     = []
}

variable "tracing_mode" {
  description = "Active has X-Ray trace some requests; or PassThrough"
  type        = string
  default     = "PassThrough"
}

variable "create_ecr_repository" {
  description = "Whether a registry is made for the image, by the function's name; it must have the image before there is a function"
  type        = bool
  default     = false
}

variable "ecr_kms_key_arn" {
  description = "A key of your own for that registry; its images are encrypted without one too"
  type        = string
  default     = null
}

variable "ecr_kept_images" {
  description = "How many of the newest images that registry keeps"
  type        = number
  default     = 10
}

variable "role_permissions_boundary" {
  description = "The ARN of a policy that bounds the function's role"
  type        = string
  default     = null
}

variable "tags" {
  description = "Of everything that is made"
  type        = map(string)
  default     = {}
}
